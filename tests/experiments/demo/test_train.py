import re
from pathlib import Path
from typing import Any

import pytest
from experiments.demo import train as room
from experiments.demo.train import train_and_test
from mmengine.config import Config

from mmkd_plugin.engine.stages import Stage


class FakeRunner:
    """Stands for a Runner: returns set metrics, and keeps the configs it was built from."""

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
    """A finished stage."""
    monkeypatch.setattr(room, 'train_stages', lambda stages: None)
    monkeypatch.setattr(room, 'Runner', FakeRunner)
    monkeypatch.setattr(FakeRunner, 'found', {'score': 0.25, 'other': 1.0}, raising=False)
    monkeypatch.setattr(FakeRunner, 'configs', [], raising=False)
    stage = Stage(Config(dict(work_dir=str(tmp_path), resume=True, load_from='iter_1.pth')), 'abc')
    stage.write_status('finished.json', last_checkpoint='iter_2.pth', finished='today')
    return stage


def test_train_and_test_twice_tests_the_last_checkpoint_once(stage: Stage) -> None:
    assert [train_and_test(stage, 'score') for _ in range(2)] == [0.25, 0.25]
    (cfg,) = FakeRunner.configs
    assert (cfg.resume, cfg.load_from) == (False, str(stage.folder / 'iter_2.pth'))
    note = stage.read_status('tested.json')
    assert note is not None and note['metrics'] == {'score': 0.25, 'other': 1.0}


def test_train_and_test_after_another_training_tests_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_and_test(stage, 'score')
    stage.write_status('finished.json', last_checkpoint='iter_2.pth', finished='tomorrow')
    monkeypatch.setattr(FakeRunner, 'found', {'score': 0.5})
    assert train_and_test(stage, 'score') == 0.5


def test_train_and_test_status_without_the_metric_tests_again(stage: Stage) -> None:
    stage.write_status(
        'tested.json', finished='today', accuracy=0.75
    )  # as the first versions wrote it
    assert train_and_test(stage, 'score') == 0.25


def test_train_and_test_without_any_metric_returns_zero(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRunner, 'found', {})
    assert train_and_test(stage, 'score') == 0.0


def test_train_and_test_unknown_metric_is_an_error(stage: Stage) -> None:
    with pytest.raises(KeyError, match=re.escape('accuracy')):
        train_and_test(stage, 'accuracy')
