"""Gradient norms of methods, relative to the task's, logged at intervals."""

from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd_plugin.engine.hooks.run_distiller import run_distiller
from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.registry import HOOKS

#: Ratios outside are reported: such a method does nothing, or nothing beside it does.
LEAST, MOST = 0.05, 20.0


@HOOKS.register_module()
class LogGradientNorms(Hook):
    """Log how strongly each method pulls at the student, relative to the student's own losses.

    The gradients are those at the student's tensors that a method reads: its taps, and the class
    scores. A ratio of 1 means that both pull equally. Ratios go to the log and the visualisation
    backends as ``<method>/gradient_ratio``, as means over all ranks. A ratio below 0.05 or above 20
    is a warning that names the factor for the weights. The step itself is not changed.

    Args:
        interval: Measure every so many iterations, the first included.

    Raises:
        ConfigError: Before training, if ``task_weight`` is 0: there is nothing to compare with.
    """

    def __init__(self, interval: int = 100) -> None:
        self.interval = positive_integer('LogGradientNorms.interval', interval)

    def before_train(self, runner: Runner) -> None:
        distiller = run_distiller(runner, self)
        if distiller.methods and not distiller.task_weight:
            raise ConfigError(
                'custom_hooks',
                'LogGradientNorms compares with the losses of the student, and task_weight is 0',
                'Remove the hook.',
                found=distiller.task_weight,
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter % self.interval == 0:
            run_distiller(runner, self).measures_gradients = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        distiller = run_distiller(runner, self)
        if not distiller.measures_gradients:
            return
        distiller.measures_gradients = False
        scalars = {}
        for name, norms in distiller.gradient_norms.items():
            own, task = _over_ranks(norms)
            if task == 0:
                continue  # the task does not reach what this method reads
            ratio = own / task
            scalars[f'{name}/gradient_ratio'] = ratio
            runner.logger.info(f'{name}: gradient {ratio:.3g} of that of the task')
            if not LEAST <= ratio <= MOST:
                advice = (
                    f'its weights times {1 / ratio:.3g} would make both equal'
                    if own
                    else ('nothing is learned from it')
                )
                runner.logger.warning(
                    f'methods.{name}: its gradient at the student is {ratio:.3g} of that of the '
                    f'task: {advice}'
                )
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)


def _over_ranks(norms: tuple[float, float]) -> list[float]:
    value = torch.tensor(norms, dtype=torch.float64)
    dist.all_reduce(value, 'mean')
    return value.tolist()
