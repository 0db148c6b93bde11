import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import classification as tiny
from mmengine.runner import Runner

from mmkd_plugin.engine.hooks.weight_picture import weight_picture
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


def test_scalars_of_every_epoch_and_pictures_of_some(tmp_path: Path) -> None:
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


def test_mean_weights_are_those_of_the_epoch(tmp_path: Path) -> None:
    run = _run(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=2))
    seen: list[torch.Tensor] = []
    weighting = run.model.methods['amtml'].weighting
    weighting.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    run.train()
    record = run.model.methods['amtml'].weight_record
    last = torch.cat(seen[-2:])  # 16 images in batches of 8
    assert record.count.item() == 16
    torch.testing.assert_close(record.totals[:2] / 16, last.mean(dim=0))


def test_record_by_hand() -> None:
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


def test_nothing_of_the_record_is_saved() -> None:
    assert not WeightRecord(2, 3).state_dict()


def test_without_a_weighting_it_says_so(tmp_path: Path) -> None:
    run = _run(tmp_path, methods=dict(kd=dict(type='SoftTarget')))
    with pytest.raises(ValueError, match=r"expected a method that weighs teachers .* got \['kd'\]"):
        run.train()


def test_picture_shows_more_weight_brighter_and_leaves_an_unseen_class_white() -> None:
    table = np.array([[0.9, 0.1], [math.nan, math.nan]], dtype=np.float32)
    picture = weight_picture(table, ['seen', 'unseen'], ['a', 'b'], 'title')
    assert picture.dtype == np.uint8
    height, width = picture.shape[:2]
    # Colours of viridis: its brightest is yellow, its darkest violet; both must be there, and white in the unseen row.
    pixels = picture.reshape(-1, 3).astype(int)
    yellow = (pixels[:, 0] > 200) & (pixels[:, 1] > 200) & (pixels[:, 2] < 80)
    violet = (pixels[:, 0] < 90) & (pixels[:, 1] < 60) & (pixels[:, 2] > 80)
    assert yellow.sum() > 0.02 * height * width
    assert violet.sum() > 0.02 * height * width


def test_many_classes_still_make_a_picture() -> None:
    table = np.random.default_rng(0).dirichlet(np.ones(3), 1000).astype(np.float32)
    assert (
        weight_picture(table, [str(i) for i in range(1000)], ['a', 'b', 'c'], 'title').shape[0]
        < 2000
    )
