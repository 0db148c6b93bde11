"""Several configs as the stages of one job: the teachers first, then who learns from them.

A stage has a folder. ``started.json`` there names the config that is being trained, ``finished.json`` the one that was:
a finished stage is skipped, an interrupted one goes on from its last checkpoint, a changed config is an error.
"""

import hashlib
import json
import os
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

from mmkd_plugin.engine.launch import join_process_group, own_state

WORK_ROOT_VARIABLE = 'MMKD_WORK_DIR'


def work_root(root: str | Path | None = None) -> Path:
    """The folder of the stages' folders: the argument, else ``$MMKD_WORK_DIR``, else ``work_dirs``.

    It is put into the environment, where configs read it: ``'{{$MMKD_WORK_DIR:work_dirs}}/teacher/epoch_9.pth'``.
    """
    path = Path(root or os.environ.get(WORK_ROOT_VARIABLE) or 'work_dirs').absolute()
    os.environ[WORK_ROOT_VARIABLE] = str(path)
    return path


def config_text(cfg: Config) -> str:
    """A resolved config on one line; the same wherever the work root and the folder of its file lie."""
    text = json.dumps(cfg.to_dict(), default=repr).replace(str(work_root()), 'work_dirs')
    return (
        text.replace(os.path.dirname(os.path.abspath(cfg.filename)), 'configs')
        if cfg.filename
        else text
    )  # as fileDirname


def sha256(text: str) -> str:
    """Hexadecimal SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Stage:
    """One config of a job, resolved, with its ``work_dir``; ``sha256`` leaves out where and how it is launched."""

    cfg: Config
    sha256: str

    @property
    def folder(self) -> Path:
        return Path(self.cfg.work_dir)

    def note(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else None

    def write_note(self, name: str, **facts: Any) -> None:
        if is_main_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            new = self.folder / f'.{name}'
            new.write_text(json.dumps(dict(config_sha256=self.sha256, **facts), indent=2) + '\n')
            new.replace(self.folder / name)


def load_stages(
    paths: Sequence[str | Path],
    work_dir: str | None = None,
    edit: Callable[[Config], object] = lambda cfg: None,
) -> list[Stage]:
    """Load every config before the first is trained.

    Args:
        paths: Config files in the order of training.
        work_dir: For one config its folder, as in every OpenMMLab project; for several the root of ``<root>/<stem>``.
        edit: What the command line changes in each config.

    Raises:
        ValueError: If two stages would share a folder.
    """
    root = work_root(work_dir if len(paths) > 1 else None)
    stages: dict[Path, Stage] = {}
    for path in paths:
        cfg = Config.fromfile(path)
        edit(cfg)
        digest = sha256(config_text(cfg))
        if work_dir is not None and len(paths) == 1:
            cfg.work_dir = work_dir
        elif cfg.get('work_dir') is None:
            cfg.work_dir = str(root / Path(path).stem)
        folder = Path(cfg.work_dir).absolute()
        if folder in stages:
            raise ValueError(
                f'work_dir: expected a folder for each stage, got {folder} for {path} and another config'
            )
        stages[folder] = Stage(cfg, digest)
    return list(stages.values())


def train_stages(
    stages: Sequence[Stage],
    launcher: str = 'none',
    resume: str | None = None,
    restart: bool = False,
) -> None:
    """Train the stages in this process, one after the other; all ranks do what the first one decides.

    Args:
        stages: From :func:`load_stages`.
        launcher: As in OpenMMLab's tools.
        resume: ``auto`` goes on from the last checkpoint whatever changed; a path goes on from that checkpoint.
        restart: Train again what is finished or was interrupted.
    """
    if resume not in (None, 'auto') and len(stages) > 1:
        raise ValueError(
            f'--resume: expected no path, as each of {len(stages)} stages has its own, got {resume}'
        )
    made_group = [join_process_group(stage.cfg, launcher) for stage in stages]
    for number, stage in enumerate(stages, 1):
        action, detail = _agreed(stage, resume, restart)
        print_log(
            f'Stage {number} of {len(stages)}, {stage.folder}: {action} {detail}'.rstrip(),
            logger='current',
        )
        if action == 'error':
            raise ValueError(detail)
        if action != 'skip':
            _train(stage, resume_from=detail if action == 'resume' else None)
    if any(made_group):
        torch_dist.destroy_process_group()


def _agreed(stage: Stage, resume: str | None, restart: bool) -> tuple[str, str]:
    """Rank 0 decides: folders need not be the same on every machine."""
    decision = [_decide(stage, resume, restart) if is_main_process() else None]
    broadcast_object_list(decision)
    assert decision[0] is not None
    return decision[0]


def _decide(stage: Stage, resume: str | None, restart: bool) -> tuple[str, str]:
    """What to do with a stage, and the checkpoint or the reason."""
    finished, started = stage.note('finished.json'), stage.note('started.json')
    checkpoint = _last_checkpoint(stage.folder)
    if restart:
        return 'train', 'again'
    if resume not in (None, 'auto'):
        return 'resume', str(resume)
    if finished and finished['config_sha256'] == stage.sha256:
        return 'skip', f'finished {finished["finished"]}'
    if resume and checkpoint:
        return 'resume', checkpoint
    # A run that ended before its first checkpoint has nothing to lose, whatever changed since: often the mistake that ended it.
    for note, what in ((finished, 'finished'), (started if checkpoint else None, 'interrupted')):
        if note and note['config_sha256'] != stage.sha256:
            return 'error', (
                f'{stage.folder}: {what} with another config. --restart trains it again, --resume goes on from its '
                'last checkpoint with the new config, another --work-dir keeps both'
            )
    return ('resume', checkpoint) if started and checkpoint else ('train', '')


def _train(stage: Stage, resume_from: str | None) -> None:
    cfg = stage.cfg
    if resume_from:
        cfg.resume, cfg.load_from = True, resume_from
    if is_main_process():  # nothing of an earlier training may be taken for this one's
        for name in ('finished.json',) if resume_from else ('finished.json', 'last_checkpoint'):
            (stage.folder / name).unlink(missing_ok=True)
    stage.write_note('started.json')
    with own_state():
        (RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)).train()
    barrier()
    last = _last_checkpoint(stage.folder)
    stage.write_note(
        'finished.json',
        last_checkpoint=Path(last).name if last else None,
        finished=datetime.now().isoformat(timespec='seconds'),
    )
    if is_main_process():
        (stage.folder / 'started.json').unlink(missing_ok=True)
    barrier()


def _last_checkpoint(folder: Path) -> str | None:
    """The checkpoint that the run wrote last; None where it was interrupted after MMEngine made room for the next."""
    last = find_latest_checkpoint(str(folder)) if (folder / 'last_checkpoint').exists() else None
    if (
        last and Path(last).parent.is_dir() and not Path(last).exists()
    ):  # of a store elsewhere the parent is no folder
        return None
    return last or None
