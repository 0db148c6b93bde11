"""A training step whose teachers are stored, against the bare student's; the speed of reading."""

import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.registry import MODELS, init_default_scope

from benchmarks.measure import Result, ratio, seconds_in_turns
from benchmarks.steps import (
    AMTML_KD,
    SOFT_TARGET,
    batch_of,
    classifier,
    step,
    untrained_teacher,
)
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
    """Measure steps with stored teachers, and how many rows a second one process reads."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    depth, teachers, batch = (8, (8, 14, 20), 16) if quick else (20, (32, 56, 110), 128)
    results = []
    for name, methods, taught_by, bound in (
        ('SoftTarget', SOFT_TARGET, teachers[1:2], 1.05),
        ('Hint', HINT, teachers[1:2], None),
        ('AMTML-KD', AMTML_KD, teachers, 1.15),
    ):
        with tempfile.TemporaryDirectory() as folder:
            distiller, data = stored_distiller(depth, taught_by, methods, batch, Path(folder))
            student = MODELS.build(classifier(depth)).to(device).train()
            tasks = dict(
                whole=step(distiller.to(device).train(), data), student=step(student, data)
            )
            seconds = seconds_in_turns(tasks, repeats, device)
        rounds = [one / other for one, other in zip(*seconds.values(), strict=True)]
        depths = '+'.join(map(str, taught_by))
        subject = f'{name} step, stored ResNet-{depths} to {depth}, batch {batch}: of the bare step'
        results.append(ratio(subject, rounds, at_most=None if quick else bound))
    results.append(_reading(repeats, quick))
    return results


def stored_distiller(
    depth: int, teachers: Any, methods: dict[str, Any], batch: int, folder: Path
) -> tuple[Any, dict[str, Any]]:
    """Return a distiller whose teachers are not built, and a batch that their stores hold."""
    dataset = ReplayedDataset(Images(batch_of(batch)), views=1)
    dataset.full_init()
    samples = [dataset[index] for index in range(batch)]
    data = {name: [sample[name] for sample in samples] for name in ('inputs', 'data_samples')}
    config = dict(
        type='mmkd_plugin.Distiller',
        student=classifier(depth),
        teachers=[
            dict(untrained_teacher(one, folder), replay=dict(path=str(folder / f'store{one}')))
            for one in teachers
        ],
        methods=methods,
        probe_shape=(3, 32, 32),
    )
    filling = MODELS.build(copy.deepcopy(config)).train()
    with torch.no_grad():
        filling.observe_teachers(filling.data_preprocessor(copy.deepcopy(data), True))
    distiller = MODELS.build(config)
    assert all(one.stored for one in distiller.teachers)
    distiller.set_teacher_scores([float(one) for one in teachers])
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
