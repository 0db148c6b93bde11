"""The second phase of AMTML-KD: a weighting that no longer learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmkd_plugin.engine.hooks import FreezeTeacherWeights
from mmkd_plugin.models.weightings import LatentTeacherWeighting

EMBEDDING = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).abs()


@HOOKS.register_module(force=True)
class WatchWeights(Hook):
    """Keep the weights of the same embedding after each epoch."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def after_train_epoch(self, runner: Runner) -> None:
        with torch.no_grad():
            self.seen.append(runner.model.methods['amtml'].mixture.weighting(EMBEDDING))


def _run(folder: Path, epochs: int, **changes: Any) -> Runner:
    hooks = [
        dict(type='mmkd_plugin.FreezeTeacherWeights', after_epoch=2),
        dict(type='WatchWeights'),
    ]
    config = dict(
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        custom_hooks=hooks,
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    )
    model = tiny.distiller_config(folder, methods=dict(amtml=tiny.amtml(objective='label')))
    return tiny.runner(model, folder / 'run', **{**config, **changes})


def _seen(run: Runner) -> list[torch.Tensor]:
    return next(hook.seen for hook in run.hooks if isinstance(hook, WatchWeights))


def test_freeze_teacher_weights_after_an_epoch_keep_the_weighting(tmp_path: Path) -> None:
    run = _run(tmp_path, epochs=5)
    run.train()
    seen = _seen(run)
    assert not torch.equal(seen[0], seen[1])
    for later in seen[2:]:  # momentum and weight decay are on
        assert torch.equal(later, seen[1])
    assert not torch.equal(seen[4][0], seen[4][1])  # images still differ


def test_weighting_when_frozen_stays_in_the_graph_with_zero_gradient() -> None:
    weighting = LatentTeacherWeighting(3, 16)
    weighting.freeze()
    weighting(EMBEDDING).square().sum().backward()
    for parameter in weighting.parameters():  # DDP stops at a parameter without gradient
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_freeze_teacher_weights_in_a_resumed_run_keep_the_frozen_weighting(tmp_path: Path) -> None:
    first = _run(tmp_path, epochs=3)
    first.train()
    again = _resume(tmp_path, first)
    again.train()
    for later in _seen(again):
        assert torch.equal(later, _seen(first)[1])


def _resume(folder: Path, first: Runner) -> Runner:
    hooks = [
        dict(type='mmkd_plugin.FreezeTeacherWeights', after_epoch=2),
        dict(type='WatchWeights'),
    ]
    teachers = [
        dict(
            name=teacher.name, model=tiny.classifier(base_channels=6), checkpoint=teacher.checkpoint
        )
        for teacher in first.model.teachers
    ]
    model = tiny.distiller_config(
        folder, teachers=teachers, methods=dict(amtml=tiny.amtml(objective='label'))
    )
    train = dict(by_epoch=True, max_epochs=5)
    return tiny.runner(model, folder / 'run', train_cfg=train, custom_hooks=hooks, resume=True)


@pytest.mark.parametrize('wrong', [0, -1, 1.5, '80', True])
def test_freeze_teacher_weights_with_a_wrong_epoch_raise(wrong: Any) -> None:
    with raises_config_error('FreezeTeacherWeights.after_epoch', wrong, 'integer >= 1'):
        FreezeTeacherWeights(wrong)
