"""A training step whose teachers are stored, against the bare student's; the speed of reading."""

import copy
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.registry import MODELS, init_default_scope

from benchmarks.detectors import Case, digit_scenes, teachers_of
from benchmarks.detectors import batch_of as boxes_of
from benchmarks.ie_kd import encoders_step, ie_kd
from benchmarks.measure import Result, ratio, seconds_in_turns
from benchmarks.steps import (
    AMTML_KD,
    SOFT_TARGET,
    batch_of,
    classifier,
    step,
    untrained_teacher,
)
from mmkd_plugin.adapters import Teacher
from mmkd_plugin.outputs import ClassScores, NetworkOutput
from mmkd_plugin.replay import ReplayedDataset, ReplayStore, RowFormat

TAP = 'backbone.layer3'
HINT = dict(hint=dict(type='Hint', pairs=[dict(student=TAP, teacher=TAP)]))


class Images:
    """Images in memory, as a data set."""

    metainfo: ClassVar[dict[str, Any]] = dict(classes=tuple('0123456789'))

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch['inputs'])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: copy.deepcopy(one[index]) for name, one in self.batch.items()}


def measure_replay(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    """Measure steps with stored teachers, and the cost of a row that is read or written."""
    torch.manual_seed(0)
    return [
        *_classifiers(device, repeats, quick),
        _factors(device, repeats, quick),
        _detector(device, repeats, quick),
        _writing(device, repeats, quick),
        _writing(device, repeats, quick, [f'backbone.layer{n}' for n in (1, 2, 3)]),
        _reading(repeats, quick),
    ]


def _classifiers(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    """Compare steps of classifiers with the step of the student alone."""
    init_default_scope('mmpretrain')
    depth, teachers, batch = (8, (8, 14, 20), 16) if quick else (20, (32, 56, 110), 128)
    results = []
    for name, methods, taught_by, bound in (
        ('SoftTarget', SOFT_TARGET, teachers[1:2], 1.05),
        ('Hint', HINT, teachers[1:2], None),
        ('AMTML-KD', AMTML_KD, teachers, 1.15),
    ):
        with tempfile.TemporaryDirectory() as folder:
            entries = [untrained_teacher(one, Path(folder)) for one in taught_by]
            config = distiller_config(classifier(depth), entries, methods, (3, 32, 32))
            distiller, data = stored_distiller(config, batch_of(batch), Path(folder))
            student = MODELS.build(classifier(depth)).to(device).train()
            tasks = dict(
                whole=step(distiller.to(device).train(), data), student=step(student, data)
            )
            seconds = seconds_in_turns(tasks, repeats, device)
        rounds = [one / other for one, other in zip(*seconds.values(), strict=True)]
        depths = '+'.join(map(str, taught_by))
        subject = f'{name} step, stored ResNet-{depths} to {depth}, batch {batch}: of the bare step'
        results.append(ratio(subject, rounds, at_most=None if quick else bound))
    return results


def _factors(device: torch.device, repeats: int, quick: bool) -> Result:
    """Compare IE-KD whose factors are stored with the student and the encoders."""
    init_default_scope('mmpretrain')
    depth, teacher_depth, batch = (8, 14, 16) if quick else (20, 56, 128)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry = untrained_teacher(teacher_depth, folder)
        methods = dict(ie=ie_kd(entry, TAP, folder))
        config = distiller_config(classifier(depth), [entry], methods, (3, 32, 32))
        distiller, data = stored_distiller(config, batch_of(batch), folder)
        distiller = distiller.to(device).train()
        inputs = distiller.data_preprocessor(data, training=True)['inputs']
        with torch.no_grad():
            own = distiller.student.backbone(inputs)[-1]
        target = torch.rand(batch, 64, 8, 8, device=device)
        tasks = dict(
            whole=step(distiller, data),
            student=step(MODELS.build(classifier(depth)).to(device).train(), data),
            encoders=encoders_step(distiller.methods.ie.transform, [(own, target)], factors=True),
        )
        seconds = seconds_in_turns(tasks, repeats, device)
    rounds = [one / (b + c) for one, b, c in zip(*seconds.values(), strict=True)]
    subject = f'IE-KD step, stored ResNet-{teacher_depth} to {depth}, batch {batch}'
    return ratio(f'{subject}: of student and encoders', rounds, at_most=None if quick else 1.05)


def _detector(device: torch.device, repeats: int, quick: bool) -> Result:
    """Compare the soft targets of a stored GFL with the step of the student alone."""
    init_default_scope('mmdet')
    batch, side = (2, 64) if quick else (16, 96)
    student = digit_scenes('student_gfl_r18')
    case = Case('GFL', student, (digit_scenes('teacher_gfl_r18'),), batch, side, {})
    data = boxes_of(batch, side)
    with tempfile.TemporaryDirectory() as name:
        entries = teachers_of(case, data, Path(name))
        methods = dict(kd=dict(type='SoftTarget', temperature=1.0))
        config = distiller_config(student, entries, methods, (3, side, side))
        distiller, data = stored_distiller(config, data, Path(name))
        alone = MODELS.build(student).to(device).train()
        tasks = dict(whole=step(distiller.to(device).train(), data), student=step(alone, data))
        seconds = seconds_in_turns(tasks, repeats, device)
    rounds = [one / other for one, other in zip(*seconds.values(), strict=True)]
    subject = f'SoftTarget step, stored GFL R18, batch {batch} of {side} px: of the bare step'
    return ratio(subject, rounds, at_most=None if quick else 1.10)


def _writing(device: torch.device, repeats: int, quick: bool, taps: Sequence[str] = ()) -> Result:
    """Compare packing and writing rows with the forward that made them.

    Rows of maps are larger, and what they lose in half precision is measured.
    """
    init_default_scope('mmpretrain')
    depth, batch = (14, 16) if quick else (56, 128)
    with tempfile.TemporaryDirectory() as name:
        teacher = Teacher(**untrained_teacher(depth, Path(name)))
        teacher.request(taps, scores=True)
        teacher.probe((3, 32, 32))
        images = torch.randn(batch, 3, 32, 32, device=device)
        scores = teacher.observe(images)
        row = RowFormat.of(scores)
        store = ReplayStore.open(Path(name) / 'store', dict(views=1), row, batch)

        def write() -> None:
            store.write(np.arange(batch), row.pack(scores, np.zeros(batch, np.uint32)))

        tasks = dict(write=write, forward=lambda: teacher.observe(images))
        seconds = seconds_in_turns(tasks, repeats, device)
    rounds = [one / other for one, other in zip(*seconds.values(), strict=True)]
    what = f'class scores and {len(taps)} maps' if taps else 'class scores'
    subject = f'writing rows of {what}, ResNet-{depth}, batch {batch}: of its forward'
    return ratio(subject, rounds, at_most=None if quick or taps else 0.03)


def distiller_config(
    student: Any, teachers: Any, methods: dict[str, Any], shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Return the config of a distiller."""
    return dict(
        type='mmkd_plugin.Distiller',
        student=student,
        teachers=teachers,
        methods=methods,
        probe_shape=shape,
    )


def stored_distiller(
    config: dict[str, Any], batch: dict[str, Any], folder: Path
) -> tuple[Any, dict[str, Any]]:
    """Return a distiller whose teachers are not built, and a batch that their stores hold.

    Args:
        config: Config of the distiller.
        batch: A raw batch.
        folder: For the stores.
    """
    dataset = ReplayedDataset(Images(batch), views=1)
    dataset.full_init()
    samples = [dataset[index] for index in range(len(dataset))]
    data = {name: [sample[name] for sample in samples] for name in ('inputs', 'data_samples')}
    config = dict(
        config,
        teachers=[
            dict(entry, replay=dict(path=str(folder / f'store {entry["name"]}'), locations=4000))
            for entry in config['teachers']
        ],
    )
    filling = MODELS.build(copy.deepcopy(config)).train()
    with torch.no_grad():
        filling.observe_teachers(filling.data_preprocessor(copy.deepcopy(data), True))
    distiller = MODELS.build(config)
    assert all(one.stored for one in distiller.teachers)
    distiller.set_teacher_scores([float(one) for one in range(len(distiller.teachers))])
    return distiller, data


def _reading(repeats: int, quick: bool) -> Result:
    """Measure how many rows of 100 classes a process reads a second, in batches of 128."""
    rows, batch = (2_000, 128) if quick else (200_000, 128)
    scores = ClassScores.of_images(torch.randn(rows, 100))
    row = RowFormat.of(NetworkOutput(scores))
    data = row.pack(NetworkOutput(scores), np.zeros(rows, np.uint32))
    with tempfile.TemporaryDirectory() as folder:
        store = ReplayStore.open(Path(folder) / 'store', dict(views=1), row, rows)
        store.write(np.arange(rows), data)
        order = np.random.default_rng(0).permutation(rows)
        speeds = []
        for _ in range(repeats):
            began = time.perf_counter()
            for start in range(0, rows, batch):
                row.unpack(store.read(order[start : start + batch])[1])
            speeds.append(rows / (time.perf_counter() - began))
    speed = statistics.median(speeds)
    shown = f'{speed:,.0f} rows/s ({min(speeds):,.0f}–{max(speeds):,.0f})'
    name = 'stored rows of 100 classes, read by one process'
    return Result(name, speed, shown, '≥ 20,000 rows/s', speed >= 20_000)
