"""A training step of distilled detectors against the sum of its parts, and its memory."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS, init_default_scope

from benchmarks.detectors import Case, batch_of, digit_scenes, faster_rcnn, retinanet, teachers_of
from benchmarks.ie_kd import encoders_step
from benchmarks.kept import kept_of_teachers
from benchmarks.measure import Result, ratio, seconds_in_turns
from benchmarks.steps import step

FEATURES, SCORES = 1.05, 1.10  # bounds for methods on maps, and on class scores
LEVELS = ('neck[0]', 'neck[1]')


def measure_detection(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    """Measure the GFL of the study `detection`, a stock RetinaNet and a Faster R-CNN."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return [result for case in _cases(quick) for result in _measure(case, device, repeats, quick)]


def _cases(quick: bool) -> list[Case]:
    pairs = [dict(student=tap, teacher=tap) for tap in LEVELS]
    amtml = dict(
        type='AMTMLKD',
        objective='label',
        student_groups=['backbone[2]', 'backbone[3]'],
        teacher_taps='neck[1]',
    )
    some: dict[str, tuple[dict[str, Any], int]] = {
        'Hint': (dict(type='Hint', pairs=pairs), 1),
        'IE-KD': (dict(type='IEKD', pairs=pairs, reduction='size_invariant'), 1),
        'SoftTarget': (dict(type='SoftTarget', temperature=1.0), 1),
    }
    more = {**some, 'AMTML-KD of 1': (amtml, 1)}
    every = {
        **more,
        'AttentionTransfer': (dict(type='AttentionTransfer', pairs=pairs), 1),
        'AMTML-KD of 2': (amtml, 2),
    }
    gfl = (
        digit_scenes('student_gfl_r18'),
        tuple(digit_scenes(f'teacher_gfl_r{depth}') for depth in (18, 34)),
    )
    if quick:
        return [Case('GFL', *gfl, 2, 64, some)]
    return [
        Case('GFL', *gfl, 16, 96, every),
        Case('RetinaNet', retinanet(18), (retinanet(50),), 4, 128, more),
        Case('Faster R-CNN', faster_rcnn(18, 64), (faster_rcnn(34, 128),), 4, 128, more),
    ]


def _measure(case: Case, device: torch.device, repeats: int, quick: bool) -> list[Result]:
    data = batch_of(case.batch, case.side)
    with tempfile.TemporaryDirectory() as folder:
        entries = teachers_of(case, data, Path(folder))
        distillers = {}
        for name, (method, number) in case.methods.items():
            distillers[name] = (
                _distiller(case, entries[:number], method, Path(folder)).to(device).train()
            )
    student = MODELS.build(case.student).to(device).train()
    student.load_state_dict(next(iter(distillers.values())).student.state_dict())
    tasks = {name: step(distiller, data) for name, distiller in distillers.items()}
    tasks['student'] = step(student, data)
    most = max(distillers.values(), key=lambda distiller: len(distiller.teachers))
    for teacher in most.teachers:
        for scores in (False, True):
            tasks[_part(teacher.name, scores)] = bare_teacher(most, teacher, scores, data)
    if 'IE-KD' in distillers:
        tasks['encoders'] = _encoders(distillers['IE-KD'], data)
    seconds = seconds_in_turns(tasks, repeats, device)
    results = []
    for name, distiller in distillers.items():
        scores = distiller.teachers[0].needs_scores
        parts = [
            'student',
            *(_part(teacher.name, scores) for teacher in distiller.teachers),
        ]
        at_most = None if quick else SCORES if scores else FEATURES
        subject = f'{case.name}, batch {case.batch} of {case.side} px, {name}'
        results.append(ratio(f'{subject}: of its parts', of_parts(seconds, name, parts), at_most))
        if name == 'IE-KD':
            rounds = of_parts(seconds, name, [*parts, 'encoders'])
            results.append(ratio(f'{subject}: of its parts and encoders', rounds, at_most))
        results.append(kept_of_teachers(f'{subject}: kept of teachers', distiller, data))
    return results


def of_parts(seconds: dict[str, list[float]], whole: str, parts: Sequence[str]) -> list[float]:
    """Return the seconds of a task over the sum of others, in each round."""
    sums = [sum(of_round) for of_round in zip(*(seconds[part] for part in parts), strict=True)]
    return [own / total for own, total in zip(seconds[whole], sums, strict=True)]


@torch.no_grad()
def _encoders(distiller: Any, data: dict[str, Any]) -> Callable[[], object]:
    inputs = distiller.data_preprocessor(data, training=True)['inputs']
    networks = distiller.student, distiller.teachers[0].model.to(inputs.device)
    levels = zip(*(network.extract_feat(inputs) for network in networks), strict=True)
    return encoders_step(distiller.methods.method.transform, list(levels)[: len(LEVELS)])


def _part(name: str, scores: bool) -> str:
    return f'{name} with scores' if scores else name


def bare_teacher(
    distiller: Any, teacher: Any, scores: bool, data: dict[str, Any]
) -> Callable[[], object]:
    """Return a bare forward of the teacher: backbone, neck, and the head for class scores."""
    batch = distiller.data_preprocessor(data, training=True)
    inputs, model = batch['inputs'], teacher.model.to(batch['inputs'].device)
    if not scores:
        return torch.no_grad()(lambda: model.extract_feat(inputs))
    if hasattr(model, 'bbox_head'):
        return torch.no_grad()(lambda: model.bbox_head(model.extract_feat(inputs)))
    sampled: list[torch.Tensor] = []
    extractor = distiller.student.roi_head.bbox_roi_extractor
    handle = extractor.register_forward_pre_hook(lambda _, args: sampled.append(args[1]))
    distiller.student(**batch, mode='loss')
    handle.remove()
    return torch.no_grad()(
        lambda: model.roi_head._bbox_forward(model.extract_feat(inputs), sampled[0])
    )


def _distiller(
    case: Case, teachers: list[dict[str, Any]], method: dict[str, Any], folder: Path
) -> Any:
    if method['type'] == 'IEKD':
        pairs = [
            dict(pair, checkpoint=_paraphraser(teachers[0], pair['teacher'], folder))
            for pair in method['pairs']
        ]
        method = dict(method, pairs=pairs)
    model = MODELS.build(
        dict(
            type='mmkd_plugin.Distiller',
            student=case.student,
            teachers=teachers,
            methods=dict(method=method),
        )
    )
    model.set_teacher_scores([float(number) for number in range(len(teachers))])
    return model


def _paraphraser(teacher: dict[str, Any], tap: str, folder: Path) -> str:
    """Write an untrained paraphraser."""
    path = folder / f'paraphraser_{tap}.pth'
    trainer = MODELS.build(dict(type='mmkd_plugin.ParaphraserTrainer', teacher=teacher, tap=tap))
    torch.save(dict(state_dict=trainer.state_dict()), path)
    return str(path)
