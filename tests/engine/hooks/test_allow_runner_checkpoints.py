"""Scripts of other projects know nothing of this plugin's context: a hook enters it for them."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from helpers import classification as tiny
from helpers.toy_run import write_config
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch.serialization import get_safe_globals


def _train(folder: Path, *lines: str, epochs: int, resume: bool) -> Runner:
    """As the ``tools/train.py`` of MMDetection and MMPretrain."""
    cfg: Any = Config.fromfile(write_config(folder / 'config.py', *lines))
    cfg.work_dir, cfg.resume, cfg.train_cfg.max_epochs = str(folder / 'run'), resume, epochs
    cfg.experiment_name = f'run{epochs}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


HOOK = "custom_hooks = [dict(type='mmkd_plugin.AllowRunnerCheckpoints')]"


def test_another_projects_script_resumes_with_the_hook(tmp_path: Path) -> None:
    before = set(map(str, get_safe_globals()))
    _train(tmp_path, HOOK, epochs=1, resume=False)
    assert _train(tmp_path, HOOK, epochs=2, resume=True).epoch == 2
    assert set(map(str, get_safe_globals())) == before


@pytest.mark.skipif(
    hasattr(mmengine_checkpoint, 'get_torch_safe_globals'),
    reason='this MMEngine (onedl-mmengine) loads its own checkpoints',
)
def test_without_the_hook_it_does_not_resume(tmp_path: Path) -> None:
    _train(tmp_path, epochs=1, resume=False)
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        _train(tmp_path, epochs=2, resume=True)


def test_a_run_that_fails_does_not_allow_twice(tmp_path: Path) -> None:
    before = set(map(str, get_safe_globals()))
    run = tiny.runner(
        tiny.classifier(data_preprocessor=tiny.preprocessor()),
        tmp_path / 'run',
        custom_hooks=[dict(type='mmkd_plugin.AllowRunnerCheckpoints')],
    )
    run.call_hook('before_run')
    run.call_hook('before_run')
    run.call_hook('after_run')
    assert set(map(str, get_safe_globals())) == before
