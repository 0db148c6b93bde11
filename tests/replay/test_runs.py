"""Replayed views in runs of MMEngine: by epochs, by iterations, resumed."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from helpers import classification as tiny
from helpers import views
from mmengine.hooks import Hook

from mmkd_plugin.replay.checksum import replayed_rows

Seen = list[tuple[int, int]]


class Watch(Hook):
    """Writes down the row and the checksum of each image."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        rows, checksums = replayed_rows(data_batch['data_samples'], 12)
        self.seen.append(list(zip(rows.tolist(), checksums.tolist(), strict=True)))


def run(folder: Path, by_epoch: bool, until: int, infinite: bool, **changes: Any) -> list[Seen]:
    """Train 12 images in batches of 4 for some epochs of 3 iterations, and return all batches."""
    watch = Watch()
    loader = dict(
        batch_size=4,
        num_workers=changes.pop('workers', 0),
        persistent_workers=changes.pop('persistent', False),
        dataset=dict(type='mmkd_plugin.ReplayedDataset', dataset=views.noise_images(), views=2),
        sampler=dict(type='mmkd_plugin.ReplaySampler', shuffle=True, infinite=infinite),
    )
    cfg = (
        dict(by_epoch=True, max_epochs=until)
        if by_epoch
        else dict(by_epoch=False, max_iters=3 * until)
    )
    checkpoint = dict(type='CheckpointHook', interval=1 if by_epoch else 3, by_epoch=by_epoch)
    model = dict(
        tiny.classifier(),
        data_preprocessor=tiny.preprocessor(),
    )
    runner = tiny.runner(
        model,
        folder,
        train_dataloader=loader,
        train_cfg=cfg,
        custom_hooks=[watch],
        default_hooks=dict(checkpoint=checkpoint),
        **changes,
    )
    runner.train()
    return watch.seen


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine sleeps for two seconds when the data of a run by iterations end."""
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda _: None)


@pytest.mark.parametrize(('by_epoch', 'infinite'), [(True, False), (False, False), (False, True)])
def test_run_trains_on_view_e_mod_v_in_epoch_e_and_resumes_exactly(
    by_epoch: bool, infinite: bool, tmp_path: Path
) -> None:
    whole = run(tmp_path / 'whole', by_epoch, 4, infinite)
    for epoch in range(4):
        batches = whole[3 * epoch : 3 * epoch + 3]
        rows = sorted(row for batch in batches for row, _ in batch)
        assert rows == [12 * (epoch % 2) + index for index in range(12)]
    images = [{one for batch in whole[n : n + 3] for one in batch} for n in (0, 3, 6, 9)]
    assert images[0] == images[2] and images[1] == images[3]
    assert whole[:3] != whole[6:9]  # another order
    first = run(tmp_path / 'part', by_epoch, 2, infinite)
    rest = run(tmp_path / 'part', by_epoch, 4, infinite, resume=True)
    assert first + rest == whole


@pytest.mark.slow
@pytest.mark.parametrize('by_epoch', [True, False])
def test_run_with_workers_that_persist_sees_the_same_images(by_epoch: bool, tmp_path: Path) -> None:
    expected = run(tmp_path / 'none', by_epoch, 3, not by_epoch)
    found = run(tmp_path / 'two', by_epoch, 3, not by_epoch, workers=2, persistent=True)
    assert found == expected


def test_run_with_another_seed_has_another_order_of_the_same_views(tmp_path: Path) -> None:
    one, other = (
        run(tmp_path / str(seed), True, 1, False, randomness=dict(seed=seed)) for seed in (3, 4)
    )
    assert one != other
    assert sorted(itertools.chain(*one)) == sorted(itertools.chain(*other))
