"""Teacher weights by class: logged and drawn at intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from numpy.typing import NDArray
from torch import Tensor

from mmkd_plugin.engine.hooks.run_distiller import run_distiller
from mmkd_plugin.engine.hooks.schedule import counts_epochs
from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.loading.class_names import class_names
from mmkd_plugin.models.weightings import WeightRecord
from mmkd_plugin.registry import HOOKS

#: A picture of more rows has neither numbers nor class names: they could not be read.
_MOST_ROWS = 40


@HOOKS.register_module()
class LogTeacherWeights(Hook):
    """Log each teacher's mean weight and the weights' entropy, and draw the class x teacher table.

    Scalars go to the log and the visualisation backends of the run as ``<method>/weight/<teacher>``
    and ``<method>/weight_entropy`` (in units of log T: 1 is uniform, 0 is one teacher for each
    image). The picture is called ``<method>_weights``, because MMEngine's local backend makes no
    sub-folders. Weights are those of the training steps since the last log, over all ranks.

    Args:
        interval: Draw the table every so many epochs, and after the last. Default: every epoch.
            In a run without epochs (``IterBasedTrainLoop``): log and draw every so many iterations,
            and after the last. Default: the interval of validation.

    Raises:
        ConfigError: Before training, if no method of the run weighs teachers.
    """

    def __init__(self, interval: int | None = None) -> None:
        if interval is not None:
            interval = positive_integer('LogTeacherWeights.interval', interval)
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        loop: Any = runner.train_loop
        self._by_epoch = counts_epochs(runner)
        self._every = self.interval or (1 if self._by_epoch else loop.val_interval)
        distiller = run_distiller(runner, self)
        if distiller.methods and not self._records(runner):
            raise ConfigError(
                'custom_hooks',
                'LogTeacherWeights needs a method that weighs teachers',
                'Use AMTMLKD with kd_weight or angle_weight, SoftTarget(weighting=…) or '
                'AngleTransfer, or remove the hook.',
                found=list(distiller.methods),
            )

    def before_train_epoch(self, runner: Runner) -> None:
        for record in self._records(runner).values():
            record.reset()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        done = runner.iter + 1
        if not self._by_epoch and (done % self._every == 0 or done == runner.max_iters):
            self._log(runner, done, 'iteration', draw=True)
            self.before_train_epoch(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        if self._by_epoch:
            epoch = runner.epoch + 1
            draw = epoch % self._every == 0 or epoch == runner.max_epochs
            self._log(runner, epoch, 'epoch', draw)

    def _log(self, runner: Runner, step: int, unit: str, draw: bool) -> None:
        names = [teacher.name for teacher in run_distiller(runner, self).teachers]
        for method, record in self._records(runner).items():
            sums = {name: _over_ranks(value) for name, value in record.named_buffers()}
            *means, entropy = (sums['totals'] / sums['count'].clamp_min(1)).tolist()
            by_teacher = dict(zip(names, means, strict=True))
            scalars = {f'{method}/weight/{name}': mean for name, mean in by_teacher.items()}
            scalars[f'{method}/weight_entropy'] = entropy
            runner.visualizer.add_scalars(scalars, step=step)
            listed = ', '.join(f'{name} {mean:.3f}' for name, mean in by_teacher.items())
            runner.logger.info(f'{method}: teacher weights {listed}; entropy {entropy:.3f} of 1')
            if draw:
                table = (sums['class_sums'] / sums['class_counts'].unsqueeze(1)).numpy()
                if np.isfinite(table).any():  # batches had labels
                    classes = _class_names(runner, len(table))
                    title = f'{method}, {unit} {step}'
                    picture = draw_teacher_weights(table, classes, names, title)
                    runner.visualizer.add_image(f'{method}_weights', picture, step=step)

    def _records(self, runner: Runner) -> Mapping[str, WeightRecord]:
        return {
            name: module
            for name, method in run_distiller(runner, self).methods.items()
            for module in method.modules()
            if isinstance(module, WeightRecord)
        }


def draw_teacher_weights(
    table: NDArray[np.float32], classes: Sequence[str], teachers: Sequence[str], title: str
) -> NDArray[np.uint8]:
    """Draw mean weights (C, T) as an RGB image (H, W, 3); a class without images stays white.

    Colours run from 0 to the largest weight; the uniform weight 1/T is marked on the colour bar.
    """
    rows, columns = table.shape
    size = (2.4 + 0.9 * columns, 1.4 + 0.3 * min(rows, _MOST_ROWS))
    figure = Figure(figsize=size, dpi=100, layout='constrained')
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    top = float(np.nanmax(table))
    image = axes.imshow(table, aspect='auto', cmap='viridis', vmin=0.0, vmax=top)
    axes.set_xticks(range(columns), teachers, rotation=20 if columns > 3 else 0)
    if rows <= _MOST_ROWS:
        axes.set_yticks(range(rows), classes)
        for row, column in np.ndindex(rows, columns):
            value = table[row, column]
            if np.isfinite(value):
                ink = 'black' if value > 0.6 * top else 'white'
                text = f'{value:.2f}'
                axes.text(column, row, text, ha='center', va='center', color=ink, fontsize=8)
    axes.set_xlabel('teacher')
    axes.set_ylabel('class')
    axes.set_title(title, fontsize=10)
    bar = figure.colorbar(image, ax=axes, label='mean weight')
    bar.ax.axhline(1 / columns, color='white', linewidth=2)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _over_ranks(value: Tensor) -> Tensor:
    total = value.clone()
    dist.all_reduce(total)
    return total.cpu()


def _class_names(runner: Runner, count: int) -> list[str]:
    dataset: Any = runner.train_dataloader.dataset
    names = class_names(getattr(dataset, 'metainfo', None))
    if names is None or len(names) != count:
        return [str(index) for index in range(count)]
    return list(names)
