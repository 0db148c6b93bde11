"""Who is trusted where: logged and drawn every epoch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from mmkd_plugin.engine.hooks.distiller_of import distiller_of
from mmkd_plugin.engine.hooks.weight_picture import weight_picture
from mmkd_plugin.models.weightings import WeightRecord
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class LogTeacherWeights(Hook):
    """Log each teacher's mean weight and the weights' entropy, and draw the class x teacher table.

    Scalars go to the run's log and visualisation backends as ``<method>/weight/<teacher>`` and ``<method>/weight_entropy``
    (in units of log T: 1 is uniform, 0 is one teacher alone an image), the picture as ``<method>_weights`` (MMEngine's
    local backend makes no sub-folders). Weights are those of the epoch's training steps, over all ranks.

    Args:
        interval: Draw the table every so many epochs, and after the last.

    Raises:
        ValueError: Before training, if no method of the run weighs teachers.
    """

    def __init__(self, interval: int = 1) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(
                f'LogTeacherWeights.interval: expected an integer >= 1, got {interval!r}'
            )
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        distiller = distiller_of(runner, self)
        if distiller.methods and not self._records(runner):
            raise ValueError(
                'custom_hooks: expected a method that weighs teachers (AMTMLKD with kd_weight or angle_weight) for '
                f'LogTeacherWeights, got {list(distiller.methods)}'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        for record in self._records(runner).values():
            record.reset()

    def after_train_epoch(self, runner: Runner) -> None:
        names = [teacher.name for teacher in distiller_of(runner, self).teachers]
        epoch = runner.epoch + 1
        for method, record in self._records(runner).items():
            sums = {name: _over_ranks(value) for name, value in record.named_buffers()}
            *means, entropy = (sums['totals'] / sums['count'].clamp_min(1)).tolist()
            scalars = {
                f'{method}/weight/{name}': mean for name, mean in zip(names, means, strict=True)
            }
            scalars[f'{method}/weight_entropy'] = entropy
            runner.visualizer.add_scalars(scalars, step=epoch)
            listed = ', '.join(
                f'{name} {mean:.3f}' for name, mean in zip(names, means, strict=True)
            )
            runner.logger.info(
                f'{method}: mean teacher weights {listed}; entropy {entropy:.3f} of 1'
            )
            if epoch % self.interval == 0 or epoch == runner.max_epochs:
                table = (sums['class_sums'] / sums['class_counts'].unsqueeze(1)).numpy()
                if np.isfinite(table).any():  # labels were seen
                    picture = weight_picture(
                        table, _class_names(runner, len(table)), names, f'{method}, epoch {epoch}'
                    )
                    runner.visualizer.add_image(f'{method}_weights', picture, step=epoch)

    def _records(self, runner: Runner) -> Mapping[str, WeightRecord]:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        return {
            name: module
            for name, method in model.methods.items()
            for module in method.modules()
            if isinstance(module, WeightRecord)
        }


def _over_ranks(value: Tensor) -> Tensor:
    total = value.clone()
    dist.all_reduce(total)
    return total.cpu()


def _class_names(runner: Runner, count: int) -> list[str]:
    dataset: Any = runner.train_dataloader.dataset
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    return (
        [str(name) for name in names]
        if names is not None and len(names) == count
        else [str(i) for i in range(count)]
    )
