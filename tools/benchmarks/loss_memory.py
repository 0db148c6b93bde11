"""Memory that the losses of dense detectors add, next to the outputs that they compare."""

import tempfile
from pathlib import Path

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from benchmarks.alone import inputs_of_methods, loss_alone
from benchmarks.detectors import batch_of
from benchmarks.measure import Result
from benchmarks.methods import DENSE, gfl
from benchmarks.peak import peak_bytes

#: The most bytes of a loss with its gradients, over the bytes that it compares, by type.
BOUNDS = dict(PKD=5.0, CWD=5.0, MGD=6.0, FGD=6.0, BCKD=6.0, LD=1.0, CrossKD=8.0)


def measure_loss_memory(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    """Measure each loss alone, forward and backward up to the outputs of the student.

    The student and the teacher are MMDet's GFL on ResNet-18. A single measurement is exact, so
    ``repeats`` counts for nothing.
    """
    init_default_scope('mmdet')
    torch.manual_seed(0)
    batch, size = (2, (96, 128)) if quick else (2, (800, 1344))
    keys = {name: f'm{number}' for number, name in enumerate(DENSE)}
    model = gfl(18, quick)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'teacher.pth'
        torch.save(dict(state_dict=ROOT_MODELS.build(model).state_dict()), path)
        distiller = ROOT_MODELS.build(
            dict(
                type='mmkd_plugin.Distiller',
                student=model,
                teachers=[dict(name='t', model=model, checkpoint=str(path))],
                methods={keys[name]: one for name, one in DENSE.items()},
            )
        )
    distiller = distiller.to(device).train()
    named = dict(distiller.methods.named())
    inputs = inputs_of_methods(distiller, batch_of(batch, size))
    results = []
    for name, key in keys.items():
        step, compared = loss_alone(named[key], inputs[key])
        peak = peak_bytes(step, device)
        shown = f'{peak / compared:.3g}× ({peak / 2**20:.3g} of {compared / 2**20:.3g} MiB)'
        bound = BOUNDS[DENSE[name]['type']]
        title = f'GFL R18, {batch} x {size[0]} x {size[1]}, {name}: loss of compared outputs'
        promise = ('', None) if quick else (f'≤ {bound:g}×', peak <= bound * compared)
        results.append(Result(title, peak / compared, shown, *promise))
    return results
