"""The second phase of AMTML-KD's code: the weighting stays as it is."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd_plugin.engine.hooks.run_distiller import run_distiller
from mmkd_plugin.errors import positive_integer
from mmkd_plugin.models.weightings import TeacherWeighting
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class FreezeTeacherWeights(Hook):
    """Freeze every learned teacher weighting after some epochs; weights still differ by image.

    Args:
        after_epoch: Number of epochs in which the weighting learns.

    Raises:
        ConfigError: If that is not at least 1.

    Reference:
        The code of AMTML-KD trains student and weighting for 80 epochs, then the student for 200.
    """

    def __init__(self, after_epoch: int) -> None:
        self.after_epoch = positive_integer('FreezeTeacherWeights.after_epoch', after_epoch)

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch < self.after_epoch:
            return
        for module in run_distiller(runner, self).methods.modules():
            if isinstance(module, TeacherWeighting):
                module.freeze()
        if runner.epoch == self.after_epoch:
            runner.logger.info(f'Teacher weighting: frozen after {self.after_epoch} epochs')
