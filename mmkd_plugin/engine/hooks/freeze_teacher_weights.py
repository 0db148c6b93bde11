"""The second phase of AMTML-KD's code: the weighting stays as it is."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd_plugin.engine.hooks.run_distiller import run_distiller
from mmkd_plugin.engine.hooks.schedule import require_reached
from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.models.weightings import TeacherWeighting
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class FreezeTeacherWeights(Hook):
    """Freeze every learned teacher weighting after some time; weights still differ by image.

    Args:
        after_epoch: Number of epochs in which the weighting learns.
        after_iter: Number of iterations in which it learns, in place of ``after_epoch``. A run with
            MMEngine's ``IterBasedTrainLoop`` has no epochs.

    Raises:
        ConfigError: If not exactly one is given, or if it is not at least 1. Before training, if
            the run does not reach it, or if no method of the run weighs teachers.

    Reference:
        The code of AMTML-KD trains student and weighting for 80 epochs, then the student for 200.
    """

    def __init__(self, after_epoch: int | None = None, after_iter: int | None = None) -> None:
        given = dict(after_epoch=after_epoch, after_iter=after_iter)
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                'FreezeTeacherWeights',
                'must have one of after_epoch and after_iter',
                'Write after_epoch=80, for example.',
                found=given,
            )
        [(name, value)] = given.items()
        self.key = f'FreezeTeacherWeights.{name}'
        self.after = positive_integer(self.key, value)
        self.by_epoch = name == 'after_epoch'
        self._frozen = False

    def before_train(self, runner: Runner) -> None:
        self._frozen = False
        distiller = run_distiller(runner, self)
        if not distiller.methods:  # no method has a weight
            return
        require_reached(self.key, self.after, runner, self.by_epoch)
        if not self._weightings(runner):
            raise ConfigError(
                'custom_hooks',
                'FreezeTeacherWeights needs a method that learns to weigh teachers',
                "Use weighting=dict(type='LatentTeacherWeighting'), or remove the hook.",
                found=list(distiller.methods),
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self._frozen or (runner.epoch if self.by_epoch else runner.iter) < self.after:
            return
        for weighting in self._weightings(runner):
            weighting.freeze()
        self._frozen = True
        unit = 'epochs' if self.by_epoch else 'iterations'
        runner.logger.info(f'Teacher weighting: frozen after {self.after} {unit}')

    def _weightings(self, runner: Runner) -> list[TeacherWeighting]:
        modules = run_distiller(runner, self).methods.modules()
        return [module for module in modules if isinstance(module, TeacherWeighting)]
