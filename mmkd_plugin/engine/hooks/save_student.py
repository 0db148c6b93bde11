"""The student alone, beside every checkpoint; of several that learn from each other, each."""

from pathlib import Path

import torch
from mmengine import dist
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmkd_plugin.engine.hooks.distiller_of import distiller_of
from mmkd_plugin.loading.checkpoint import student_checkpoint
from mmkd_plugin.models.distillers import MutualDistiller
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class SaveStudent(Hook):
    """Write ``<name>_student.pth`` beside each checkpoint ``<name>.pth`` of the run, as the student's own framework writes it.

    Of several networks that learn from each other each has a file, called after it: ``<name>_<peer>.pth``. It loads into the stock model
    with no missing and no unexpected key, and has no optimizer in it. Where the checkpoint holds EMA weights, so does the student's. It
    is removed when its checkpoint is, so ``max_keep_ckpts`` and ``save_best`` mean what they say.
    """

    priority = 'LOWEST'  # after CheckpointHook

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if isinstance(model, MutualDistiller):
            self.suffixes = {name: f'_{name}.pth' for name in model.names}
        else:
            distiller_of(runner, self)
            self.suffixes = {'student': '_student.pth'}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        for hook in runner.hooks:
            if (
                isinstance(hook, CheckpointHook)
                and not hook.by_epoch
                and self.every_n_train_iters(runner, hook.interval)
            ):
                self._mirror(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._mirror(runner)

    def after_val_epoch(self, runner: Runner, metrics: object = None) -> None:
        self._mirror(runner)

    def after_train(self, runner: Runner) -> None:
        self._mirror(runner)

    @dist.master_only
    def _mirror(self, runner: Runner) -> None:
        """Bring the students in the run's folder in step with its checkpoints."""
        folder = _checkpoint_folder(runner)
        for suffix in self.suffixes.values():
            for student in folder.glob(f'*{suffix}'):
                if not student.with_name(student.name.removesuffix(suffix) + '.pth').exists():
                    student.unlink()
        for checkpoint in folder.glob('*.pth'):
            if not checkpoint.name.endswith(tuple(self.suffixes.values())):
                self._export(checkpoint)

    def _export(self, checkpoint: Path) -> None:
        students = {
            name: checkpoint.with_name(checkpoint.stem + suffix)
            for name, suffix in self.suffixes.items()
        }
        written = checkpoint.stat().st_mtime_ns
        if all(
            student.exists() and student.stat().st_mtime_ns >= written
            for student in students.values()
        ):
            return
        content = torch.load(checkpoint, map_location='cpu', weights_only=True)
        for name, student in students.items():
            unfinished = student.with_suffix('.tmp')
            torch.save(student_checkpoint(content, name), unfinished)
            unfinished.replace(student)  # an interrupted write leaves no half of a student


def _checkpoint_folder(runner: Runner) -> Path:
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.out_dir:
            return Path(hook.out_dir)
    return Path(runner.work_dir)
