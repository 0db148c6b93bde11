"""Train several configs as the stages of one job: teachers first, then their students.

A stage has a folder with a status file. ``started.json`` names the config that is being trained,
``finished.json`` the one that was. A finished stage is skipped. An interrupted one continues from
its last checkpoint. A changed config is an error.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.dist import barrier, broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from mmkd_plugin.engine.launch import check_hooks, isolated_runner_state, join_process_group
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.config_files import read_config
from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed

WORK_ROOT_VARIABLE = 'MMKD_WORK_DIR'
_NOT_IN_CONFIGS = '"\'\\{}'


def work_root(root: str | Path | None = None) -> Path:
    """Return the folder of the stages' folders, and put it into the environment for configs.

    Configs read it as ``'{{$MMKD_WORK_DIR:work_dirs}}/teacher/epoch_9.pth'``.

    Args:
        root: The folder. Default: ``$MMKD_WORK_DIR``, or ``work_dirs`` if that is not set.

    Raises:
        ConfigError: If a config cannot contain its path.
    """
    path = Path(root or os.environ.get(WORK_ROOT_VARIABLE) or 'work_dirs').absolute()
    os.environ[WORK_ROOT_VARIABLE] = _path_for_configs(path)
    return path


def _path_for_configs(path: Path) -> str:
    """Return a path that a config can have between quotes: with slashes, absolute if possible."""
    texts = [path.as_posix()]
    if path.is_relative_to(Path.cwd()):  # the characters can be those of the current folder
        texts.append(path.relative_to(Path.cwd()).as_posix())
    for text in texts:
        if not set(text) & set(_NOT_IN_CONFIGS):
            return text
    raise ConfigError(
        WORK_ROOT_VARIABLE,
        f'must have none of the characters {_NOT_IN_CONFIGS}, because configs contain the path '
        'between quotes',
        'Use another folder, and / between folders.',
        found=path.as_posix(),
    )


def config_text(cfg: Config) -> str:
    """Return a resolved config on one line, without the paths of the work root and its folder."""
    root = _path_for_configs(work_root())
    text = json.dumps(cfg.to_dict(), default=repr).replace(json.dumps(root)[1:-1], 'work_dirs')
    text = re.sub(r'"[^"]*/(?=_base_/)', '"', text)  # fileDirname of a file in _base_
    if not cfg.filename:
        return text
    folder = json.dumps(os.path.dirname(os.path.abspath(cfg.filename)))[1:-1]
    return text.replace(folder, 'configs')  # fileDirname


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in hexadecimal digits.

    Example:
        >>> sha256('')[:8]
        'e3b0c442'
    """
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Stage:
    """One config of a job.

    Args:
        cfg: Resolved, with its ``work_dir``.
        sha256: Hash of the config, without where and how it is launched.
    """

    cfg: Config
    sha256: str

    @property
    def folder(self) -> Path:
        return Path(self.cfg.work_dir)

    def read_status(self, name: str) -> dict[str, Any] | None:
        """Return the content of a status file such as ``finished.json``, or None without one."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else None

    def write_status(self, name: str, **values: Any) -> None:
        """Write a status file with the hash of the config and ``values``, on the first rank."""
        if is_main_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            new = self.folder / f'.{name}'
            new.write_text(json.dumps(dict(config_sha256=self.sha256, **values), indent=2) + '\n')
            new.replace(self.folder / name)


def load_stages(
    paths: Sequence[str | Path],
    work_dir: str | None = None,
    edit: Callable[[Config], object] = lambda cfg: None,
) -> list[Stage]:
    """Load every config before the first is trained.

    Args:
        paths: Config files in the order of training.
        work_dir: For one config its folder, as in every OpenMMLab project; for several the root of
            ``<root>/<stem>``.
        edit: Makes the changes of the command line in each config.

    Raises:
        ConfigError: If two stages would share a folder.
    """
    root = work_root(work_dir if len(paths) > 1 else None)
    stages: dict[Path, Stage] = {}
    for path in paths:
        cfg = read_config(str(path), 'config')
        edit(cfg)
        digest = sha256(config_text(cfg))
        if work_dir is not None and len(paths) == 1:
            cfg.work_dir = work_dir
        elif cfg.get('work_dir') is None:
            cfg.work_dir = str(root / Path(path).stem)
        folder = Path(cfg.work_dir).absolute()
        if folder in stages:
            raise ConfigError(
                'work_dir',
                f'must be different for each stage; {path} has that of an earlier one',
                'Rename one of the configs, or set work_dir in it.',
                found=str(folder),
            )
        stages[folder] = Stage(cfg, digest)
    return list(stages.values())


def train_stages(
    stages: Sequence[Stage],
    launcher: str = 'none',
    resume: str | None = None,
    restart: bool = False,
) -> None:
    """Train the stages in this process, one after the other; the first rank decides for all.

    Args:
        stages: From :func:`load_stages`.
        launcher: As in OpenMMLab's tools.
        resume: ``auto`` continues from the last checkpoint even if the config has changed. A path
            continues from that checkpoint.
        restart: Train again stages that are finished or were interrupted.

    Raises:
        ConfigError: If one checkpoint is given for several stages, or if a stage was trained with
            another config.
    """
    if resume not in (None, 'auto') and len(stages) > 1:
        raise ConfigError(
            '--resume',
            f'must have no path if there are several stages; there are {len(stages)}',
            'Leave out the path, or train one config.',
            found=resume,
        )
    made_group = [join_process_group(stage.cfg, launcher) for stage in stages]
    for number, stage in enumerate(stages, 1):
        action, detail = _agreed(stage, resume, restart)
        print_log(
            f'Stage {number} of {len(stages)}, {stage.folder}: {action} {detail}'.rstrip(),
            logger='current',
        )
        if action == 'error':
            raise ConfigError(
                str(stage.folder),
                f'was {detail} with another config',
                'Train it again with --restart, continue from its last checkpoint with --resume, '
                'or keep both with another --work-dir.',
            )
        if action != 'skip':
            _train(stage, resume_from=detail if action == 'resume' else None)
    if any(made_group):
        torch_dist.destroy_process_group()


def _agreed(stage: Stage, resume: str | None, restart: bool) -> tuple[str, str]:
    """Return the first rank's decision, since the folders of other machines can differ."""
    decision = [_decide(stage, resume, restart) if is_main_process() else None]
    broadcast_object_list(decision)
    assert decision[0] is not None
    return decision[0]


def _decide(stage: Stage, resume: str | None, restart: bool) -> tuple[str, str]:
    """Return what to do with a stage, and the checkpoint or the reason."""
    finished, started = stage.read_status('finished.json'), stage.read_status('started.json')
    checkpoint = _last_checkpoint(stage.folder)
    if restart:
        return 'train', 'again'
    if resume not in (None, 'auto'):
        return 'resume', str(resume)
    if finished and finished['config_sha256'] == stage.sha256:
        return 'skip', f'finished {finished["finished"]}'
    if resume and checkpoint:
        return 'resume', checkpoint
    # A run without a checkpoint has nothing to lose, and often its config caused its end.
    for status, word in ((finished, 'finished'), (started if checkpoint else None, 'interrupted')):
        if status and status['config_sha256'] != stage.sha256:
            return 'error', word
    return ('resume', checkpoint) if started and checkpoint else ('train', '')


def _train(stage: Stage, resume_from: str | None) -> None:
    cfg = stage.cfg
    if resume_from:
        cfg.resume, cfg.load_from = True, resume_from
    if is_main_process():  # or files of an earlier training would pass for those of this one
        for name in ('finished.json',) if resume_from else ('finished.json', 'last_checkpoint'):
            (stage.folder / name).unlink(missing_ok=True)
    stage.write_status('started.json')
    with isolated_runner_state(), runner_checkpoints_allowed():
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        check_hooks(runner)
        runner.train()
    barrier()
    last = _last_checkpoint(stage.folder)
    stage.write_status(
        'finished.json',
        last_checkpoint=Path(last).name if last else None,
        finished=datetime.now().isoformat(timespec='seconds'),
    )
    if is_main_process():
        (stage.folder / 'started.json').unlink(missing_ok=True)
    barrier()


def _last_checkpoint(folder: Path) -> str | None:
    """Return the checkpoint that the run wrote last.

    It is None if the run ended after MMEngine removed it and before the next one was written.
    """
    last = find_latest_checkpoint(str(folder)) if (folder / 'last_checkpoint').exists() else None
    # in a remote store the parent is not a folder here
    if last and Path(last).parent.is_dir() and not Path(last).exists():
        return None
    return last or None
