"""One run of a study: an ordinary training, then validation and test at the last epoch."""

import fcntl
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from experiments.study.lines import Line
from experiments.study.plan import Run
from mmkd_plugin import registry
from mmkd_plugin.engine.stages import Stage, train_stages
from mmkd_plugin.version import __version__


def preload(configs: Iterable[Config]) -> None:
    """Import once, before forking, what every run needs: the hosts named by ``default_scope`` and our own rooms."""
    torch.set_num_threads(1)
    import_module(
        'torch.utils.cpp_extension'
    )  # every Runner's report of its environment asks for it
    for host in {cfg.get('default_scope', 'mmengine') for cfg in configs} - {'mmengine'}:
        import_module(f'{host}.utils').register_all_modules(init_default_scope=False)
    for room in (registry.MODELS, registry.DATASETS, registry.HOOKS, registry.LOOPS):
        room.import_from_location()


def prepare(stage: Stage) -> None:
    """Train what the arms need, as ``tools/train.py`` would; again if its config has changed. One job at a time."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    with (stage.folder / '.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        train_stages(
            [stage], restart=not prepared(stage) and stage.note('finished.json') is not None
        )


def prepared(stage: Stage) -> bool:
    """Whether it is trained already, with this very config."""
    note = stage.note('finished.json')
    return note is not None and note['config_sha256'] == stage.sha256


def measure(run: Run, folder: Path) -> Line:
    """Train one run and give its metrics, without a checkpoint or any other file but its log and curves."""
    cfg = run.candidate.cfg  # of this process alone
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': run.seed}
    cfg.work_dir = str(folder)
    cfg.default_hooks = {**(cfg.get('default_hooks') or {}), 'checkpoint': None}
    cfg.visualizer = {
        **(cfg.get('visualizer') or {'type': 'Visualizer'}),
        'vis_backends': [{'type': 'LocalVisBackend'}],
    }
    began, cpu_began = time.monotonic(), time.process_time()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.train()
    # The loops, not runner.val(): that would start the hooks anew, and an EMA with them.
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


def _step_seconds(runner: Runner) -> dict[str, float]:
    """The median over iterations, as MMEngine's timer took it; nothing where a config has no timer."""
    times = runner.message_hub.log_scalars.get('train/time')
    return {} if times is None else {'step_seconds': round(float(np.median(times.data[0])), 5)}


def versions() -> dict[str, str]:
    """What a result may depend on beside its config."""
    found = {'python': platform.python_version(), 'mmkd_plugin': __version__}
    for name in (
        'torch',
        'torchvision',
        'numpy',
        'mmengine',
        'mmcv',
        'mmcv-lite',
        'mmpretrain',
        'mmdet',
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    git = subprocess.run(
        [
            'git',
            '-C',
            str(Path(__file__).parent),
            'describe',
            '--always',
            '--dirty',
            '--abbrev=12',
        ],  # no tag: the commit
        capture_output=True,
        text=True,
    )
    return found | ({'commit': git.stdout.strip()} if git.returncode == 0 else {})


def mean_metric(lines: list[Line], split: str, metric: str) -> float:
    """Mean of a metric over lines; an unknown metric names those that are there."""
    values: list[float] = []
    for line in lines:
        known: dict[str, Any] = line.get(split, {})
        if metric not in known:
            raise ValueError(
                f'metric: expected one of {sorted(known)} ({split} of {line["arm"]}), got {metric!r}'
            )
        values.append(known[metric])
    return sum(values) / len(values)
