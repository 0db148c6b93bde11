"""Runs of one student by two teachers whose outputs are stored."""

import copy
import os
import random
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

from helpers import classification as tiny
from mmkd_plugin.loading.run_model import unwrap
from mmkd_plugin.replay import ReplayStore

VIEWS = 3
EXACT = dict(dtype='float32')
HINT = dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer2')])
METHODS: dict[str, dict[str, Any]] = {
    'soft targets and hint': dict(kd=dict(type='SoftTarget'), hint=HINT),
    'amtml': dict(amtml=tiny.amtml()),
    'ie-kd': dict(
        ie=dict(
            type='IEKD',
            knowledge='attention',
            pairs=[dict(student='backbone.layer2', teacher='backbone.layer2')],
        )
    ),
}


@DATASETS.register_module(force=True)
class Noisy(tiny.TinyImages):
    """Images with noise of the three generators that augmentations draw from."""

    def __init__(self, scale: float = 20.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        noise = torch.randn(3, 8, 8) * self.scale + random.random() * 9 + np.random.rand() * 9
        sample['inputs'] = (sample['inputs'] + noise).clamp(0, 255).to(torch.uint8)
        return sample


class Case:
    """Runs of one student by two teachers, with and without stores."""

    def __init__(self, folder: Path, teachers: Any = None) -> None:
        self.folder = folder
        self.teachers = teachers or tiny.teachers(folder, 2)

    def model(self, replay: dict[str, Any] | None, methods: Any, **changes: Any) -> dict[str, Any]:
        teachers = copy.deepcopy(changes.pop('teachers', self.teachers))
        if replay is not None:
            for index, one in enumerate(teachers):
                one['replay'] = dict(path=str(self.folder / f'store{index}'), **replay)
        return tiny.distiller_config(self.folder, teachers=teachers, methods=methods, **changes)

    def loader(self, workers: int = 0, seed: int = 0, views: int = VIEWS, **dataset: Any) -> Any:
        data = dict(type='Noisy', **dataset)
        return dict(
            batch_size=8,
            num_workers=workers,
            persistent_workers=workers > 0,
            dataset=dict(type='mmkd_plugin.ReplayedDataset', views=views, seed=seed, dataset=data),
            sampler=dict(type='mmkd_plugin.ReplaySampler', shuffle=True),
        )

    def settings(self, epochs: int = VIEWS, loader: Any = None) -> dict[str, Any]:
        return dict(
            train_dataloader=loader or self.loader(),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1),
                logger=dict(type='LoggerHook', interval=1),
            ),
        )

    def run(
        self,
        name: str,
        replay: dict[str, Any] | None = None,
        methods: Any = METHODS['soft targets and hint'],
        epochs: int = VIEWS,
        loader: Any = None,
        hooks: Any = (),
        resume: bool = False,
        randomness: Any = None,
        **changes: Any,
    ) -> tuple[dict[str, Tensor], Any]:
        torch.manual_seed(0)
        model = self.model(replay, methods, **changes)
        settings = self.settings(epochs, loader)
        settings |= dict(custom_hooks=list(hooks), resume=resume)
        settings |= {} if randomness is None else dict(randomness=randomness)
        run = tiny.runner(ROOT_MODELS.build(model), self.folder / name, **settings)
        run.train()
        return tiny.weights_of(run.model), run.model


def no_network() -> Any:
    """Fail if a teacher's network is built."""
    return mock.patch(
        'mmkd_plugin.adapters.teacher.build_network', side_effect=AssertionError('it was built')
    )


class Steps(Hook):
    """Notes the steps that were taken."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        self.steps.append(runner.iter)


class Kill(Hook):
    """Kill the process as ``kill -9`` does, after a step or in the middle of writing rows.

    Args:
        step: Number of the step.
        writing: Whether half of a batch is written in it.
    """

    def __init__(self, step: int, writing: bool) -> None:
        self.step, self.writing = step, writing

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.writing and runner.iter == self.step:
            write = ReplayStore.write

            def half(store: Any, rows: Any, data: Any) -> None:
                write(store, rows[: len(rows) // 2], data[: len(rows) // 2])
                store._rows[rows[-1], : data.shape[1] // 2] = data[-1, : data.shape[1] // 2]
                os.kill(os.getpid(), signal.SIGKILL)

            ReplayStore.write = half

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if not self.writing and runner.iter == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(folder: Path, teachers: Any, step: int, writing: bool) -> None:
    """Run in a process of its own, which is killed."""
    torch.set_num_threads(1)
    case = Case(folder, teachers)
    case.run('cut', EXACT, hooks=[Kill(step, writing)])


def train_and_save(folder: Path, teachers: Any, name: str, seed: int) -> None:
    """Run in a process of its own, and save the weights."""
    torch.set_num_threads(1)
    weights, _ = Case(folder, teachers).run(name, EXACT, randomness=dict(seed=seed))
    torch.save(weights, folder / f'{name}.pt')


def train_in_two(folder: Path, case_folder: Path, teachers: Any, replay: Any) -> dict[str, Any]:
    """Run in one of two gloo processes; return the weights."""
    case = Case(case_folder, teachers)
    torch.manual_seed(0)
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    loader = case.loader()
    loader['batch_size'] //= dist.get_world_size()
    run = tiny.runner(
        ROOT_MODELS.build(case.model(replay, METHODS['soft targets and hint'])),
        folder,
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=wrapper),
        **case.settings(loader=loader),
    )
    run.train()
    stored = [one.stored for one in unwrap(run.model).teachers]
    return dict(weights=tiny.weights_of(unwrap(run.model)), stored=all(stored))
