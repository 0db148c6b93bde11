"""Memory that the losses of dense detectors add, next to the outputs that they compare."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from benchmarks.detectors import batch_of
from benchmarks.measure import Result
from benchmarks.methods import dense_methods, gfl
from benchmarks.peak import peak_bytes
from mmkd_plugin.models.methods import Method
from mmkd_plugin.outputs import NetworkOutput

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
    methods = dense_methods()
    keys = {name: f'm{number}' for number, name in enumerate(methods)}
    model = gfl(18, quick)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'teacher.pth'
        torch.save(dict(state_dict=ROOT_MODELS.build(model).state_dict()), path)
        distiller = ROOT_MODELS.build(
            dict(
                type='mmkd_plugin.Distiller',
                student=model,
                teachers=[dict(name='t', model=model, checkpoint=str(path))],
                methods={keys[name]: one for name, one in methods.items()},
            )
        )
    distiller = distiller.to(device).train()
    calls: dict[str, tuple[Any, ...]] = {}
    named = dict(distiller.methods.named())
    handles = [
        method.register_forward_pre_hook(lambda _, args, key=key: calls.setdefault(key, args) and None)
        for key, method in named.items()
    ]
    with torch.no_grad():
        data = distiller.data_preprocessor(batch_of(batch, size), True)
        distiller(**data, mode='loss')
    for handle in handles:
        handle.remove()
    results = []
    for name, key in keys.items():
        peak, compared = loss_peak(named[key], *calls[key])
        shown = f'{peak / compared:.3g}× ({peak / 2**20:.3g} of {compared / 2**20:.3g} MiB)'
        bound = BOUNDS[methods[name]['type']]
        title = f'GFL R18, {batch} x {size[0]} x {size[1]}, {name}: loss of compared outputs'
        promise = ('', None) if quick else (f'≤ {bound:g}×', peak <= bound * compared)
        results.append(Result(title, peak / compared, shown, *promise))
    return results


def loss_peak(method: Method, student: NetworkOutput, *others: Any) -> tuple[int, int]:
    """Return the peak bytes of a method's losses with their gradients, and the compared bytes.

    Args:
        method: A built method.
        student: Outputs of the student.
        others: Outputs of the teachers, and labels.
    """
    wanted = method.requests(len(others[0]))
    features = {tap: _leaf(student.features[tap]) for tap in wanted.student}
    scores, boxes = student.scores, student.boxes
    if scores is not None:
        scores = replace(scores, logits=_leaf(scores.logits)) if wanted.scores else None
    if boxes is not None:
        boxes = replace(boxes, values=_leaf(boxes.values)) if wanted.boxes else None
    own = replace(student, scores=scores, features=features, boxes=boxes)
    sizes = [one.numel() * one.element_size() for one in own.tensors().values()]

    def step() -> None:
        losses: Mapping[str, torch.Tensor] = method(own, *others)
        total = torch.stack([value for name, value in losses.items() if 'loss' in name]).sum()
        total.backward()  # type: ignore[no-untyped-call]

    device = next(iter(own.tensors().values())).device
    return peak_bytes(step, device), sum(sizes)


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_()
