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


class WatchIterations(Hook):
    """Keep the weights of the same embedding after each iteration."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            self.seen.append(runner.model.methods['amtml'].mixture.weighting(EMBEDDING))


def _iterations(folder: Path, watch: WatchIterations, **after: int) -> Runner:
    hooks = [dict(type='mmkd_plugin.FreezeTeacherWeights', **after), watch]
    return _run(
        folder, 0, custom_hooks=hooks, train_cfg=dict(by_epoch=False, max_iters=5), default_hooks={}
    )


def test_freeze_teacher_weights_in_a_run_of_iterations_keep_the_weighting(tmp_path: Path) -> None:
    watch = WatchIterations()
    _iterations(tmp_path, watch, after_iter=2).train()
    assert not torch.equal(watch.seen[0], watch.seen[1])
    assert len(watch.seen) == 5
    assert all(torch.equal(later, watch.seen[1]) for later in watch.seen[2:])


@pytest.mark.parametrize(
    ('after', 'problem', 'fix'),
    [
        (dict(after_epoch=1), 'counts iterations', 'after_iter'),
        (dict(after_iter=5), 'below 5', 'Lower it'),
    ],
)
def test_freeze_teacher_weights_that_never_happens_raises_before_the_first_step(
    tmp_path: Path, after: dict[str, int], problem: str, fix: str
) -> None:
    run = _iterations(tmp_path, WatchIterations(), **after)
    [(name, value)] = after.items()
    with raises_config_error(f'FreezeTeacherWeights.{name}', value, problem, fix=fix):
        run.train()
    assert run.iter == 0


def test_freeze_teacher_weights_after_the_last_epoch_raise(tmp_path: Path) -> None:
    run = _run(tmp_path, epochs=2)
    with raises_config_error('FreezeTeacherWeights.after_epoch', 2, 'below 2', fix='Lower it'):
        run.train()


def test_freeze_teacher_weights_without_a_learned_weighting_raise(tmp_path: Path) -> None:
    methods = dict(kd=dict(type='SoftTarget'))
    model = tiny.distiller_config(tmp_path, methods=methods)
    hook = dict(type='mmkd_plugin.FreezeTeacherWeights', after_iter=1)
    run = tiny.runner(model, tmp_path / 'run', custom_hooks=[hook])
    with raises_config_error('custom_hooks', ['kd'], 'FreezeTeacherWeights', fix='remove the hook'):
        run.train()


@pytest.mark.parametrize('given', [{}, dict(after_epoch=1, after_iter=1)])
def test_freeze_teacher_weights_need_one_moment(given: dict[str, int]) -> None:
    with raises_config_error('FreezeTeacherWeights', given, 'one of', fix='after_epoch=80'):
        FreezeTeacherWeights(**given)


@pytest.mark.parametrize('wrong', [0, -1, 1.5, '80', True])
def test_freeze_teacher_weights_with_a_wrong_epoch_raise(wrong: Any) -> None:
    with raises_config_error('FreezeTeacherWeights.after_epoch', wrong, 'integer >= 1'):
        FreezeTeacherWeights(wrong)
