"""Fill the stores of a run's teachers without training."""

import time
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from mmkd_plugin.adapters.replayed_teacher import ReplayedTeacher
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.run_model import unwrap
from mmkd_plugin.models.distillers import Distiller

#: Seconds between two lines of progress.
_PAUSE = 10.0


def fill_stores(cfg: Config, views: int | None = None, log: Callable[[str], Any] = print) -> None:
    """Run every replayed teacher of a config on all views whose rows are missing.

    Several processes share the images, as in training. It can be interrupted and repeated.

    Args:
        cfg: A config of a Distiller whose teachers have ``replay``; changed in place.
        views: Number of views to fill, from the first on; all by default.
        log: Receives lines of progress, in the main process.

    Raises:
        ConfigError: If no teacher has ``replay``, or the run cannot be replayed.
    """
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.custom_hooks = []  # nothing is trained
    runner = Runner.from_cfg(cfg)
    distiller = unwrap(runner.model)
    found = distiller.teachers if isinstance(distiller, Distiller) else []
    teachers = [one for one in found if isinstance(one, ReplayedTeacher)]
    if not teachers:
        raise ConfigError(
            'model.teachers',
            'has no teacher with replay, so there is no store to fill',
            "Write teachers=[dict(…, replay=dict(path='work_dirs/stores/NAME'))].",
        )
    loader = runner.build_dataloader(cfg.train_dataloader, seed=runner.seed)
    dataset: Any = loader.dataset
    number = min(views or dataset.views, dataset.views)
    started, shown, done = time.monotonic(), 0.0, 0
    distiller.train()
    for view in range(number):
        if all(one.store.view_is_finished(view) for one in teachers):
            continue
        loader.sampler.set_epoch(view)
        for data in loader:
            with torch.no_grad():
                distiller.observe_teachers(distiller.data_preprocessor(data, True))
            done += len(data['data_samples'])
            passed = time.monotonic() - started
            if passed - shown > _PAUSE and is_main_process():
                shown = passed
                left = (number - view) * len(loader.sampler) * passed / done
                log(
                    f'view {view + 1} of {number}: {done / passed:,.0f} images/s, at most '
                    f'{left / 60:.0f} min left'
                )
    for teacher in teachers:
        teacher.store.flush()
        if is_main_process():
            log(teacher.store.summary())
