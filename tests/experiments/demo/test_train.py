import re
from pathlib import Path
from typing import Any

import pytest
from experiments.demo import train as room
from experiments.demo.train import last_step, steps_of, train_and_test
from mmengine.config import Config

from mmkd_plugin.engine.stages import Stage


def test_epochs_are_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / 'demo.log'
    log.write_text('loading\n')
    assert last_step(log) == 0
    log.write_text(
        'INFO - Epoch(train)  [9][20/39]  lr: 1\nINFO - Epoch(train) [10][20/39]  lr: 1\nEpoch(val) [10][5/5]\n'
    )
    assert last_step(log) == 10


def test_iterations_are_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / 'demo.log'
    log.write_text(
        'Iter(train) [  50/1000]  lr: 1\nIter(train) [ 100/1000]  lr: 1\nIter(val) [ 25/25]\n'
    )
    assert last_step(log) == 100


def test_steps_are_what_the_loop_counts() -> None:
    assert steps_of(Config(dict(train_cfg=dict(by_epoch=True, max_epochs=9)))) == (9, 'epochs')
    assert steps_of(Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=70)))) == (
        70,
        'iterations',
    )


class FakeRunner:
    """In place of a Runner: gives what is set, and keeps the configs it was made of."""

    found: dict[str, float]
    configs: list[Any]

    @classmethod
    def from_cfg(cls, cfg: Config) -> 'FakeRunner':
        cls.configs.append(cfg)
        return cls()

    def test(self) -> dict[str, float]:
        return self.found


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A finished one."""
    monkeypatch.setattr(room, 'train_stages', lambda stages: None)
    monkeypatch.setattr(room, 'Runner', FakeRunner)
    monkeypatch.setattr(FakeRunner, 'found', {'score': 0.25, 'other': 1.0}, raising=False)
    monkeypatch.setattr(FakeRunner, 'configs', [], raising=False)
    stage = Stage(Config(dict(work_dir=str(tmp_path), resume=True, load_from='iter_1.pth')), 'abc')
    stage.write_note('finished.json', last_checkpoint='iter_2.pth', finished='today')
    return stage


def test_the_last_checkpoint_is_tested_once(stage: Stage) -> None:
    assert [train_and_test(stage, 'score') for _ in range(2)] == [0.25, 0.25]
    (cfg,) = FakeRunner.configs
    assert (cfg.resume, cfg.load_from) == (False, str(stage.folder / 'iter_2.pth'))
    note = stage.note('tested.json')
    assert note is not None and note['metrics'] == {'score': 0.25, 'other': 1.0}


def test_what_was_trained_again_is_tested_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_and_test(stage, 'score')
    stage.write_note('finished.json', last_checkpoint='iter_2.pth', finished='tomorrow')
    monkeypatch.setattr(FakeRunner, 'found', {'score': 0.5})
    assert train_and_test(stage, 'score') == 0.5


def test_a_note_without_the_metric_is_no_note(stage: Stage) -> None:
    stage.write_note(
        'tested.json', finished='today', accuracy=0.75
    )  # as it was before there were several metrics
    assert train_and_test(stage, 'score') == 0.25


def test_no_detection_at_all_is_zero(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRunner, 'found', {})
    assert train_and_test(stage, 'score') == 0.0


def test_a_metric_that_is_not_there_is_an_error(stage: Stage) -> None:
    with pytest.raises(KeyError, match=re.escape('accuracy')):
        train_and_test(stage, 'accuracy')
