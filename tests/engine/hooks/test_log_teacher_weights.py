"""Teacher weights by class: scalars, pictures and the record behind them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.runner import Runner

from mmkd_plugin.engine.hooks.log_teacher_weights import draw_teacher_weights
from mmkd_plugin.models.weightings import WeightRecord


def _run(folder: Path, **changes: Any) -> Runner:
    hook = dict(type='mmkd_plugin.LogTeacherWeights', interval=2)
    config = dict(
        train_cfg=dict(by_epoch=True, max_epochs=3),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        custom_hooks=[hook],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3)),
    )
    methods = changes.pop('methods', None) or dict(amtml=tiny.amtml(hint_weight=0.0))
    return tiny.runner(
        tiny.distiller_config(folder, methods=methods), folder / 'run', **{**config, **changes}
    )


def test_log_teacher_weights_write_scalars_every_epoch_and_pictures_at_intervals(
    tmp_path: Path,
) -> None:
    run = _run(tmp_path)
    run.train()
    [folder] = [path.parent for path in (tmp_path / 'run').rglob('vis_image')]
    scalars = [
        line
        for path in folder.glob('*.json')
        for line in path.read_text().splitlines()
        if 'weight/t0' in line
    ]
    assert len(scalars) == 3
    pictures = sorted(path.name for path in (folder / 'vis_image').glob('*.png'))
    assert pictures == [
        'amtml_weights_2.png',
        'amtml_weights_3.png',
    ]  # every second epoch, and the last


def test_log_teacher_weights_in_a_run_of_iterations_log_at_intervals(tmp_path: Path) -> None:
    run = _run(
        tmp_path, train_cfg=dict(by_epoch=False, max_iters=5), default_hooks=dict(checkpoint=None)
    )
    counts: list[float] = []
    record = run.model.methods['amtml'].mixture.weight_record
    reset = record.reset
    record.reset = lambda: (counts.append(record.count.item()), reset())
    run.train()
    assert counts == [0, 16, 16, 8]  # of two, two and one batches, each with its own images
    [folder] = [path.parent for path in (tmp_path / 'run').rglob('vis_image')]
    pictures = sorted(path.name for path in (folder / 'vis_image').glob('*.png'))
    assert pictures == [f'amtml_weights_{step}.png' for step in (2, 4, 5)]


def test_log_teacher_weights_average_over_one_epoch(tmp_path: Path) -> None:
    run = _run(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=2))
    seen: list[torch.Tensor] = []
    weighting = run.model.methods['amtml'].mixture.weighting
    weighting.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    run.train()
    record = run.model.methods['amtml'].mixture.weight_record
    last = torch.cat(seen[-2:])  # 16 images in batches of 8
    assert record.count.item() == 16
    torch.testing.assert_close(record.totals[:2] / 16, last.mean(dim=0))


def test_weight_record_of_known_weights_has_known_sums_and_entropy() -> None:
    record = WeightRecord(num_teachers=2, num_classes=3)
    # Weights (1, 0) have no entropy, (1/2, 1/2) all of it: half on average.
    entropy = record(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([2, 2]))
    assert entropy.item() == pytest.approx(0.5)
    assert record.class_sums.tolist() == [[0, 0], [0, 0], [1.5, 0.5]]
    # A mixed label counts by its shares.
    record(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.0, 0.75]]))
    assert record.class_sums.tolist() == [[0, 0.25], [0, 0], [1.5, 1.25]]
    assert record.class_counts.tolist() == [0.25, 0, 2.75]
    record.reset()
    assert all(not buffer.any() for buffer in record.buffers())


def test_weight_record_adds_nothing_to_a_checkpoint() -> None:
    assert not WeightRecord(2, 3).state_dict()


def test_log_teacher_weights_without_a_weighting_raise(tmp_path: Path) -> None:
    run = _run(tmp_path, methods=dict(kd=dict(type='SoftTarget')))
    with raises_config_error('custom_hooks', ['kd'], 'LogTeacherWeights', fix='AMTMLKD'):
        run.train()


def test_draw_teacher_weights_draws_more_weight_brighter_and_an_unseen_class_white() -> None:
    table = np.array([[0.9, 0.1], [math.nan, math.nan]], dtype=np.float32)
    picture = draw_teacher_weights(table, ['seen', 'unseen'], ['a', 'b'], 'title')
    assert picture.dtype == np.uint8
    height, width = picture.shape[:2]
    # viridis: the brightest colour is yellow, the darkest violet
    pixels = picture.reshape(-1, 3).astype(int)
    yellow = (pixels[:, 0] > 200) & (pixels[:, 1] > 200) & (pixels[:, 2] < 80)
    violet = (pixels[:, 0] < 90) & (pixels[:, 1] < 60) & (pixels[:, 2] > 80)
    assert yellow.sum() > 0.02 * height * width
    assert violet.sum() > 0.02 * height * width


def test_draw_teacher_weights_of_1000_classes_keeps_a_readable_size() -> None:
    table = np.random.default_rng(0).dirichlet(np.ones(3), 1000).astype(np.float32)
    classes = [str(i) for i in range(1000)]
    picture = draw_teacher_weights(table, classes, ['a', 'b', 'c'], 'title')
    assert picture.shape[0] < 2000
