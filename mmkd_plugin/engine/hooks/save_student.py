"""Write the student of a run beside every checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine import dist
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.export import student_checkpoint, trained_networks, write
from mmkd_plugin.loading.run_model import unwrap
from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed
from mmkd_plugin.models.distillers import Distiller, MutualDistiller
from mmkd_plugin.registry import HOOKS

_SOURCE = 'exported_from'


class _File(NamedTuple):
    """The meaning of a ``.pth`` file to the hook."""

    is_checkpoint: bool = False  # it holds the networks of this run
    exported_from: str | None = None  # the hook wrote it from this checkpoint


@HOOKS.register_module()
class SaveStudent(Hook):
    """Write ``<name>_student.pth`` beside each checkpoint ``<name>.pth`` of the run.

    The file is a checkpoint of the student's own framework. It loads into the stock model with no
    missing and no unexpected key, and holds no optimizer. In mutual learning each peer has a file,
    ``<name>_<peer>.pth``. If the checkpoint holds EMA weights, so does the file.

    A file is removed with its checkpoint, so ``max_keep_ckpts`` and ``save_best`` apply to both.
    The hook replaces and removes only files that it wrote. They state the name of their checkpoint
    under ``meta['exported_from']``. A student whose checkpoint was gone before the run stays. The
    hook ignores all other files.

    Raises:
        ConfigError: Before training, if the run trains something else or its checkpoints are not
            written to a local folder.
    """

    priority = 'LOWEST'  # after CheckpointHook

    def __init__(self) -> None:
        self.suffixes: dict[str, str] = {}
        self._changed = False
        self._files: dict[tuple[Path, int], _File] = {}  # by path and time of writing
        self._paired: set[Path] = set()  # students whose checkpoints this run has seen

    def before_train(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        if not isinstance(model, (Distiller, MutualDistiller)):
            raise ConfigError(
                'custom_hooks',
                'has mmkd_plugin.SaveStudent in a run without a student',
                'Remove the hook, or train a mmkd_plugin.Distiller or MutualDistiller.',
                found=type(model).__name__,
            )
        for hook in _checkpoint_hooks(runner):
            if not isinstance(getattr(hook, 'file_backend', None), LocalBackend):
                raise ConfigError(
                    'default_hooks.checkpoint.out_dir',
                    'must be a local folder for mmkd_plugin.SaveStudent',
                    'Remove this hook, and export with tools/export_student.py.',
                    found=hook.out_dir,
                )
        self.suffixes = {name: f'_{name}.pth' for name in trained_networks(model.state_dict())}
        self._changed = True  # a killed run can have left a checkpoint without its student

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self._changed = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._update(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._update(runner)

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self._update(runner)

    def after_train(self, runner: Runner) -> None:
        self._changed = True  # CheckpointHook publishes files without a call of the hooks
        self._update(runner)

    @dist.master_only
    def _update(self, runner: Runner) -> None:
        """Write the students of new checkpoints, and remove those of removed checkpoints."""
        if not self._changed:
            return
        self._changed = False
        folders = {Path(hook.out_dir) for hook in _checkpoint_hooks(runner)}
        for folder in folders or {Path(runner.work_dir)}:
            files = sorted(path for path in folder.glob('*.pth') if path.is_file())
            for path in files:
                self._remove_orphan(path, runner)
            for path in files:
                if path.exists():
                    self._export(path, runner)

    def _remove_orphan(self, student: Path, runner: Runner) -> None:
        for suffix in self.suffixes.values():
            checkpoint = student.with_name(student.name.removesuffix(suffix) + '.pth')
            if (
                student in self._paired
                and student.name.endswith(suffix)
                and not checkpoint.exists()
                and self._inspect(student, runner).exported_from == checkpoint.name
            ):
                student.unlink()
                self._paired.discard(student)
                return

    def _export(self, checkpoint: Path, runner: Runner) -> None:
        written = checkpoint.stat().st_mtime_ns
        stale: dict[str, Path] = {}
        for name, suffix in self.suffixes.items():
            student = checkpoint.with_name(checkpoint.stem + suffix)
            if not student.exists():
                stale[name] = student
            elif student.stat().st_mtime_ns < written:
                if self._inspect(student, runner).exported_from == checkpoint.name:
                    stale[name] = student
                elif self._inspect(checkpoint, runner).is_checkpoint:
                    runner.logger.warning(
                        f'{student}: not written by SaveStudent, so it stays as it is. It is older '
                        f'than {checkpoint.name}.'
                    )
        if stale and self._inspect(checkpoint, runner).is_checkpoint:
            content = _load(checkpoint)
            for name, student in stale.items():
                exported = student_checkpoint(content, name)
                exported['meta'][_SOURCE] = checkpoint.name
                write(exported, student)
        self._paired.update(
            checkpoint.with_name(checkpoint.stem + s) for s in self.suffixes.values()
        )

    def _inspect(self, path: Path, runner: Runner) -> _File:
        key = path, path.stat().st_mtime_ns
        if key not in self._files:
            try:
                content = _load(path)
                networks = trained_networks(content)
                source = content.get('meta', {}).get(_SOURCE)
                self._files[key] = _File(networks.keys() == self.suffixes.keys(), source)
            except Exception as error:  # a foreign file can fail anywhere in the reader
                reason = str(error).strip().partition('\n')[0] or type(error).__name__
                runner.logger.warning(f'{path}: SaveStudent ignores it, as it is unread: {reason}')
                self._files[key] = _File()
        return self._files[key]


def _load(path: Path) -> Any:
    """Return the content of a checkpoint; tensors that nobody reads are not loaded."""
    with runner_checkpoints_allowed():
        return torch.load(path, map_location='cpu', weights_only=True, mmap=True)


def _checkpoint_hooks(runner: Runner) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
