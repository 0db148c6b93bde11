"""One run of a study: an ordinary training, then validation and test at the last epoch."""

import fcntl
import os
import time
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from experiments.study.lines import Line
from experiments.study.plan import Run
from mmkd_plugin.engine.stages import Stage, train_stages
from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed


def prepare(stage: Stage) -> None:
    """Train what the arms load, as ``tools/train.py`` does; again if its config has changed.

    A lock lets one process train it while others wait.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    with (stage.folder / '.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        train_stages(
            [stage], restart=not prepared(stage) and stage.read_status('finished.json') is not None
        )


def prepared(stage: Stage) -> bool:
    """Return whether it is trained already, with this very config."""
    note = stage.read_status('finished.json')
    return note is not None and note['config_sha256'] == stage.sha256


def measure(run: Run, folder: Path) -> Line:
    """Train one run and return its metrics. No checkpoint is written, only its log and curves."""
    cfg = run.candidate.cfg  # this process has its own copy
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': run.seed}
    cfg.work_dir = str(folder)
    cfg.default_hooks = {**(cfg.get('default_hooks') or {}), 'checkpoint': None}
    _log_progress(cfg)
    cfg.visualizer = {
        **(cfg.get('visualizer') or {'type': 'Visualizer'}),
        'vis_backends': [{'type': 'LocalVisBackend'}],
    }
    began, cpu_began = time.monotonic(), time.process_time()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    with runner_checkpoints_allowed():
        runner.train()
    # The loops, because runner.val() would start the hooks anew, and an EMA with them.
    metrics = {
        split: {name: round(float(value), 4) for name, value in loop.run().items()}
        for split, loop in (('val', runner.val_loop), ('test', runner.test_loop))
        if loop is not None
    }
    return {
        'arm': run.arm,
        'seed': run.seed,
        'role': run.role,
        'candidate': run.name,
        'config_sha256': run.candidate.sha256,
        'epochs': runner.epoch,
        'iterations': runner.iter,
        'seconds': round(time.monotonic() - began, 1),
        'cpu_seconds': round(time.process_time() - cpu_began, 1),
        'cpus': os.cpu_count(),
        **_step_seconds(runner),
        **metrics,
    }


def _log_progress(cfg: Config, interval: int = 50) -> None:
    """Let the log report often enough to show progress; the config's digest is taken already."""
    logger = cfg.default_hooks.get('logger')
    if logger is not None and logger.get('interval', 10) > interval:
        logger['interval'] = interval


def _step_seconds(runner: Runner) -> dict[str, float]:
    """Return the median over iterations of MMEngine's timer; nothing if a config has no timer."""
    times = runner.message_hub.log_scalars.get('train/time')
    return {} if times is None else {'step_seconds': round(float(np.median(times.data[0])), 5)}
