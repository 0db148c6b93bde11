"""Measure what MMRazor and this plugin do with a teacher, for the table in README.md.

    python tools/benchmarks/against_mmrazor.py

Every toolbox that is installed is measured, and the versions are printed. MMRazor 1.0.0 imports
with torch 1.13.1 and fails with 2.0.1; this plugin needs torch 2.6. So the table comes from two
environments with Python 3.11, which were made by

    pip install 'numpy<2' 'setuptools<81' torchvision==0.15.2 mmengine==0.10.7 mmcv-lite==2.1.0 \
        mmpretrain==1.2.0 mmrazor==1.0.0 opencv-python==4.11.0.86 joblib cloudpickle
    pip install --no-deps torch==1.13.1

and by ``make demo``.

Both distil MMPretrain's ResNet-34 into ResNet-18, with random weights: what is measured does not
depend on them.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ('torch', 'mmengine', 'mmpretrain')
TOOLBOXES = {
    'mmrazor': 'import mmrazor.models',
    'mmkd_plugin': "from mmkd_plugin.registry import MODELS; MODELS.get('mmkd_plugin.Distiller')",
}
TEACHER, STUDENT = (f'resnet/resnet{depth}_8xb32_in1k.py' for depth in (34, 18))
TAP = 'backbone.layer2'
OUR_CONFIG = ROOT / 'configs/kd/kd_resnet34_resnet18_8xb32_in1k.py'
RAZOR_CONFIG = '.mim/configs/distill/mmcls/kd/kd_logits_resnet34_resnet18_8xb32_in1k.py'


def main() -> None:
    """Print the rows of each installed toolbox."""
    sys.path.append(str(ROOT))
    for toolbox, statement in TOOLBOXES.items():
        if toolbox == 'mmrazor' and find_spec(toolbox) is None:
            continue
        print(f'\n{toolbox} {_version(toolbox)}, ' + ', '.join(map(_named, HOSTS)))
        error = import_error(statement)
        print(f'  import                                  {error or "works"}')
        if not error:
            for name, value in rows(toolbox).items():
                print(f'  {name:<40}{value}')


def import_error(statement: str) -> str:
    """Run an import in a process of its own; return the last line of its error, or ``''``."""
    command = [sys.executable, '-W', 'ignore', '-c', statement]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ''


def rows(toolbox: str) -> dict[str, str]:
    """Return the measured rows of a toolbox that imports."""
    from mmengine.registry import init_default_scope

    init_default_scope('mmpretrain')
    build = razor_model if toolbox == 'mmrazor' else our_model
    with tempfile.TemporaryDirectory() as folder:
        whole, damaged = write_teachers(Path(folder))
        model = build(str(whole))
        entries, mib = teacher_entries(model, Path(folder) / 'run.pth')
        share, losses = teacher_work(model)
        found = {
            'teacher tensors in a checkpoint': f'{entries}, {mib:.0f} MiB',
            'teacher file without head.fc.weight': outcome(build, str(damaged)),
            f'teacher work, hint at {TAP}': f'{share:.0%} of its multiply-adds, '
            f'{losses} task loss(es) of its own',
        }
    path = OUR_CONFIG if toolbox == 'mmkd_plugin' else _package('mmrazor') / RAZOR_CONFIG
    lines = config_lines(path)
    return {**found, 'lines of a config (KD, ResNet-34 to 18)': str(lines)}


def write_teachers(folder: Path) -> tuple[Path, Path]:
    """Write a checkpoint of the teacher, and one that lacks a tensor."""
    import torch
    from mmengine.registry import MODELS

    state = MODELS.build(stock_model(TEACHER)).state_dict()
    whole, damaged = folder / 'teacher.pth', folder / 'damaged.pth'
    torch.save(dict(state_dict=state), whole)
    state.pop('head.fc.weight')
    torch.save(dict(state_dict=state), damaged)
    return whole, damaged


def razor_model(checkpoint: str) -> Any:
    """Build MMRazor's distillation of one map."""
    import mmrazor.models  # noqa: F401  registers its models
    from mmrazor.registry import MODELS

    recorders = dict(map=dict(type='ModuleOutputs', source=TAP))
    distiller = dict(
        type='ConfigurableDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses=dict(loss_hint=dict(type='L2Loss')),
        loss_forward_mappings=dict(
            loss_hint=dict(
                s_feature=dict(from_student=True, recorder='map'),
                t_feature=dict(from_student=False, recorder='map'),
            )
        ),
    )
    config = dict(
        _scope_='mmrazor',
        type='SingleTeacherDistill',
        architecture=stock_model(STUDENT),
        teacher=stock_model(TEACHER),
        teacher_ckpt=checkpoint,
        distiller=distiller,
    )
    return MODELS.build(config)


def our_model(checkpoint: str) -> Any:
    """Build this plugin's distillation of the same map."""
    from mmkd_plugin.registry import MODELS

    config = dict(
        type='mmkd_plugin.Distiller',
        student=f'mmpretrain::{STUDENT}',
        teachers=[dict(name='r34', model=f'mmpretrain::{TEACHER}', checkpoint=checkpoint)],
        methods=dict(hint=dict(type='Hint', pairs=[dict(student=TAP, teacher=TAP)])),
    )
    return MODELS.build(config)


def stock_model(name: str) -> dict[str, Any]:
    """Return the model of a stock config of MMPretrain."""
    from mmengine.hub import get_config

    return {**get_config(f'mmpretrain::{name}').model, '_scope_': 'mmpretrain'}


def teacher_entries(model: Any, path: Path) -> tuple[int, float]:
    """Return how many of the checkpoint's tensors are the teacher's, and their size in MiB."""
    import torch

    torch.save(dict(state_dict=model.state_dict()), path)
    saved: Mapping[str, Any] = torch.load(path, map_location='cpu')['state_dict']
    theirs = [value for key, value in saved.items() if key.startswith('teacher.')]
    return len(theirs), sum(one.numel() * one.element_size() for one in theirs) / 2**20


def outcome(build: Callable[[str], Any], checkpoint: str) -> str:
    """Return what happens with a checkpoint: an error, or nothing."""
    try:
        build(checkpoint)
    except Exception as error:
        return f'{type(error).__name__} before the first step'
    return 'training starts with a random head.fc.weight'


def teacher_work(model: Any) -> tuple[float, int]:
    """Return the share of the teacher's multiply-adds in a step, and its task losses."""
    import torch
    from mmpretrain.structures import DataSample

    teacher = model.teachers[0].model if hasattr(model, 'teachers') else model.teacher
    done: list[int] = []
    losses: list[str] = []
    handles = [
        module.register_forward_hook(lambda module, _, out: done.append(multiply_adds(module, out)))
        for module in teacher.modules()
        if hasattr(module, 'weight') and module.weight.ndim in (2, 4)
    ]
    handles.append(teacher.head.loss_module.register_forward_hook(lambda *_: losses.append('')))
    data = dict(
        inputs=list(torch.zeros(2, 3, 224, 224, dtype=torch.uint8)),
        data_samples=[DataSample().set_gt_label(0), DataSample().set_gt_label(1)],
    )
    model.train()
    batch = model.data_preprocessor(data, True)
    model(**batch, mode='loss')
    in_step, in_losses = sum(done), len(losses)
    done.clear()
    with torch.no_grad():
        teacher(batch['inputs'], mode='tensor')
    for handle in handles:
        handle.remove()
    return in_step / sum(done), in_losses


def multiply_adds(module: Any, output: Any) -> int:
    """Count the multiply-adds of a convolution or a linear layer."""
    weight = module.weight
    return int(output.numel() * weight.numel() // weight.shape[0])


def config_lines(path: Path) -> int:
    """Count the lines of a config and of its bases in the same project.

    Comments and blank lines do not count, nor do stock configs of a framework.
    """
    from mmengine.config import Config

    lines = [line.strip() for line in path.read_text().splitlines()]
    own = sum(1 for line in lines if line and not line.startswith('#'))
    bases = [str(base) for base in Config._get_base_files(str(path)) if '::' not in str(base)]
    found = [(path.parent / base).resolve() for base in bases]
    return own + sum(config_lines(base) for base in found)


def _version(package: str) -> str:
    if package == 'mmkd_plugin':  # this tree, whatever is installed
        return (ROOT / package / 'version.py').read_text().split("'")[1]
    try:
        return version(package)
    except PackageNotFoundError:
        return '(not installed)'


def _named(package: str) -> str:
    return f'{package} {_version(package)}'


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


if __name__ == '__main__':
    main()
