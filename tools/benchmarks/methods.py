"""A training step of each method that compares two networks, against the sum of its parts."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from benchmarks.alone import inputs_of_methods, loss_alone
from benchmarks.detection import bare_teacher, of_parts
from benchmarks.detectors import Case, batch_of, teachers_of
from benchmarks.measure import Result, ratio, seconds_in_turns
from benchmarks.own_networks import own_networks
from benchmarks.steps import forward, step
from mmkd_plugin.loading.build import network_config

BOUND = 1.10
LOGITS: dict[str, dict[str, Any]] = {
    'SoftTarget, standardised': dict(type='SoftTarget', standardize=True, temperature=2.0),
    'DIST': dict(type='DIST', loss_weight=2.0),
    'DKD': dict(type='DKD', temperature=1.0, beta=0.5),
    'NKD': dict(type='NKD'),
    'HardTarget': dict(type='HardTarget'),
    'RKD': dict(type='RKD', tap='neck'),
}
#: Levels of a pyramid.
PAIRS = [dict(student=f'neck[{n}]', teacher=f'neck[{n}]') for n in range(5)]
DENSE: dict[str, dict[str, Any]] = {
    'PKD': dict(type='PKD', pairs=PAIRS, loss_weight=6.0),
    'CWD': dict(type='CWD', pairs=PAIRS),
    'MGD': dict(type='MGD', pairs=PAIRS),
    'FGD': dict(type='FGD', pairs=PAIRS),
    'BCKD': dict(type='BCKD'),
    'LD': dict(type='LD'),
    'LD with its region': dict(type='LD', vlr_weight=0.25),
    'CrossKD': dict(type='CrossKD'),
}


def measure_methods(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    """Measure MMPretrain's ResNet-34 to 18 and MMDet's GFL R50 to R18."""
    torch.manual_seed(0)
    return [*_classifiers(device, repeats, quick), *_detectors(device, repeats, quick)]


def gfl(depth: int, quick: bool = False) -> Any:
    """Return MMDet's GFL on a ResNet, without pretrained weights.

    Args:
        depth: 18 or 50.
        quick: Whether it has few channels.
    """
    width = 512 if depth < 50 else 2048
    options: dict[str, Any] = {
        'model.backbone.depth': depth,
        'model.backbone.init_cfg': None,
        'model.neck.in_channels': [width // 8, width // 4, width // 2, width],
    }
    if quick:
        options |= {
            'model.neck.out_channels': 32,
            'model.bbox_head.in_channels': 32,
            'model.bbox_head.feat_channels': 32,
            'model.bbox_head.stacked_convs': 2,
        }
    return network_config('mmdet::gfl/gfl_r50_fpn_1x_coco.py', 'model', options)


def distiller_of(
    student: Any, teacher: Mapping[str, Any], method: Mapping[str, Any], **more: Any
) -> Any:
    """Build a distiller of one method, in training mode."""
    config = dict(
        type='mmkd_plugin.Distiller',
        student=student,
        teachers=[teacher],
        methods=dict(method=method),
        **more,
    )
    return ROOT_MODELS.build(config).train()


def _classifiers(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    from mmpretrain.structures import DataSample

    init_default_scope('mmpretrain')
    batch, side = (4, 32) if quick else (64, 64)
    configs = [
        network_config(f'mmpretrain::resnet/resnet{depth}_8xb32_in1k.py', 'model')
        for depth in (18, 34)
    ]
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    labels = torch.randint(0, 1000, (batch,)).tolist()
    data = dict(
        inputs=list(images), data_samples=[DataSample().set_gt_label(one) for one in labels]
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / 'teacher.pth'
        torch.save(dict(state_dict=ROOT_MODELS.build(configs[1]).state_dict()), checkpoint)
        teacher = dict(name='t', model=configs[1], checkpoint=str(checkpoint))
        distillers = {
            name: distiller_of(configs[0], teacher, one, probe_shape=(3, side, side)).to(device)
            for name, one in LOGITS.items()
        }
    student = ROOT_MODELS.build(configs[0]).to(device).train()
    inputs = student.data_preprocessor(data, training=True)['inputs']
    first = next(iter(distillers.values()))
    tasks = _steps(distillers, data)
    tasks['student'] = step(student, data)
    tasks['teacher'] = forward(first.teachers[0].model.to(device), inputs)
    subject = f'ResNet-34 to 18, batch {batch} of {side} px'
    own: dict[str, list[str]] = {name: [] for name in distillers}
    return _ratios(subject, tasks, own, repeats, device, quick)


def _detectors(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    init_default_scope('mmdet')
    batch, side = (2, 64) if quick else (4, 128)
    case = Case('GFL', gfl(18, quick), (gfl(50, quick),), batch, side, {})
    data = batch_of(batch, side)
    with tempfile.TemporaryDirectory() as folder:
        [teacher] = teachers_of(case, data, Path(folder))
        distillers = {
            name: distiller_of(case.student, teacher, one).to(device) for name, one in DENSE.items()
        }
    student = ROOT_MODELS.build(case.student).to(device).train()
    tasks = _steps(distillers, data)
    tasks['student'] = step(student, data)
    own = {}
    for name, distiller in distillers.items():
        [network] = distiller.teachers
        scores = network.needs_scores
        own[name] = ['teacher with its head' if scores else 'teacher']
        if own[name][0] not in tasks:
            tasks[own[name][0]] = bare_teacher(distiller, network, scores, data)
        networks = own_networks(distiller, data)
        if networks is not None:
            tasks[f'{name}: networks'] = networks
            own[name].append(f'{name}: networks')
    subject = f'GFL R50 to R18, batch {batch} of {side} px'
    return _ratios(subject, tasks, own, repeats, device, quick)


def _steps(distillers: Mapping[str, Any], data: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return the whole step of each distiller, and the losses of its method alone."""
    tasks = {name: step(one, data) for name, one in distillers.items()}
    for name, distiller in distillers.items():
        [inputs] = inputs_of_methods(distiller, data).values()
        tasks[f'{name}: loss'], _ = loss_alone(distiller.methods.method, inputs)
    return tasks


def _ratios(
    subject: str,
    tasks: dict[str, Callable[[], object]],
    own: Mapping[str, list[str]],
    repeats: int,
    device: torch.device,
    quick: bool,
) -> list[Result]:
    """Compare each method with the student's step, the teacher's forward and its own networks.

    A method's losses alone are compared with the same sum. They last milliseconds, so other
    processes disturb them less than whole steps.
    """
    seconds = seconds_in_turns(tasks, repeats, device)
    results = []
    for name, parts in own.items():
        parts = ['student', *(parts or ['teacher'])]
        networks = ' and networks' if len(parts) > 2 else ''
        for task, words, bound in (
            (name, '', BOUND),
            (f'{name}: loss', ', loss alone', None if networks else BOUND - 1),
        ):
            rounds = of_parts(seconds, task, parts)
            title = f'{subject}, {name}{words}: of its parts{networks}'
            results.append(ratio(title, rounds, at_most=None if quick else bound))
    return results
