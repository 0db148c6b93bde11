"""The authors' second phase: the weights' rule stays as it is."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd_plugin.engine.hooks.distiller_of import distiller_of
from mmkd_plugin.models.weightings import TeacherWeighting
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class FreezeTeacherWeights(Hook):
    """Freeze every learned teacher weighting after so many epochs; images still get weights of their own.

    Args:
        after_epoch: How many epochs the weighting learns.

    Raises:
        ValueError: If that is not at least 1.

    Source: the code of AMTML-KD trains student and weighting for 80 epochs, then the student for 200 more.
    """

    def __init__(self, after_epoch: int) -> None:
        if not isinstance(after_epoch, int) or after_epoch < 1:
            raise ValueError(
                f'FreezeTeacherWeights.after_epoch: expected an integer >= 1, got {after_epoch!r}'
            )
        self.after_epoch = after_epoch

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch < self.after_epoch:
            return
        for module in distiller_of(runner, self).methods.modules():
            if isinstance(module, TeacherWeighting):
                module.freeze()
        if runner.epoch == self.after_epoch:
            runner.logger.info(f'The teacher weighting is frozen after {self.after_epoch} epochs')
