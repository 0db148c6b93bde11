"""Gradient norms of methods: right, without an effect on the step, and with a warning."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error

HINT = dict(
    type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer2')], loss_weight=0.5
)
KD = dict(type='SoftTarget', loss_weight=2.0)


def run_of(folder: Path, hook: Any, iters: int = 5, **changes: Any) -> Any:
    settings = {name: changes.pop(name) for name in ('optim_wrapper',) if name in changes}
    config = tiny.distiller_config(folder, methods=dict(kd=KD, hint=HINT), **changes)
    hooks = [] if hook is None else [dict(type='mmkd_plugin.LogGradientNorms', **hook)]
    return tiny.runner(
        config, folder / f'run{len(list(folder.iterdir()))}', iters, custom_hooks=hooks, **settings
    )


def test_norms_are_those_of_the_losses_at_what_the_method_reads(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(kd=KD, hint=HINT)).train()
    model.measures_gradients = True
    layer, head = model.student.backbone.layer2, model.student.head
    seen: dict[str, Any] = {}
    layer.register_forward_hook(lambda *args: seen.setdefault('hint', args[2]))
    head.register_forward_hook(lambda *args: seen.setdefault('kd', args[2]))
    losses = tiny.losses_of(model)
    for name in ('kd', 'hint'):
        found = model.gradient_norms[name]
        for value, key in zip(found, (f'{name}.loss_{name}', 'task.loss'), strict=True):
            [gradient] = torch.autograd.grad(losses[key], [seen[name]], retain_graph=True)
            assert value == pytest.approx(gradient.double().norm().item(), rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    'optim',
    [
        dict(type='OptimWrapper', accumulative_counts=2),
        dict(type='OptimWrapper', clip_grad=dict(max_norm=1.0)),
    ],
    ids=['accumulated', 'clipped'],
)
def test_run_with_the_hook_is_the_run_without_bit_for_bit(optim: Any, tmp_path: Path) -> None:
    optim = dict(optim, optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
    plain = run_of(tmp_path, None, optim_wrapper=copy.deepcopy(optim))
    plain.train()
    watched = run_of(tmp_path, dict(interval=2), optim_wrapper=copy.deepcopy(optim))
    watched.train()
    names = tiny.differing(plain.model.state_dict(), watched.model.state_dict())
    assert not [name for name in names if not name.startswith('record.')]  # of the teachers' files
    assert not watched.model.measures_gradients


def test_ratios_are_logged_at_the_interval_by_iteration(tmp_path: Path) -> None:
    run = run_of(tmp_path, dict(interval=2))
    written: list[tuple[int, set[str]]] = []
    run.visualizer.add_scalars = lambda scalars, step, **_: written.append((step, set(scalars)))
    run.train()
    names = {'kd/gradient_ratio', 'hint/gradient_ratio'}
    assert [step for step, found in written if found == names] == [1, 3, 5]


def test_method_that_pulls_too_hard_or_hardly_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.distiller_config(
        tmp_path, methods=dict(kd=dict(KD, loss_weight=1e4), hint=dict(HINT, loss_weight=1e-6))
    )
    hooks = [dict(type='mmkd_plugin.LogGradientNorms')]
    run = tiny.runner(config, tmp_path / 'run', iters=1, custom_hooks=hooks)
    warned: list[str] = []
    monkeypatch.setattr(run.logger, 'warning', warned.append)
    run.train()
    found = {line.split(':')[0]: line for line in warned if 'gradient' in line}
    assert found.keys() == {'methods.kd', 'methods.hint'}
    factors = {name: float(line.split('times ')[1].split()[0]) for name, line in found.items()}
    assert factors['methods.kd'] < LEAST_FACTOR < 1 < factors['methods.hint']


LEAST_FACTOR = 1 / 20


def test_run_without_the_students_losses_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, dict(), task_weight=0.0)
    with raises_config_error('custom_hooks', 0.0, 'LogGradientNorms', fix='Remove'):
        run.train()


@pytest.mark.parametrize('interval', [0, -1, 1.5])
def test_interval_that_is_no_positive_integer_is_refused(interval: Any, tmp_path: Path) -> None:
    with raises_config_error('LogGradientNorms.interval', ANY):
        run_of(tmp_path, dict(interval=interval))


def test_method_that_rests_has_no_norm(tmp_path: Path) -> None:
    end = dict(type='LinearSchedule', start=1.0, stop=0.0, end=2, by_epoch=False)
    config = tiny.distiller_config(tmp_path, methods=dict(kd=dict(KD, loss_weight=end)))
    hooks = [dict(type='mmkd_plugin.LogGradientNorms', interval=1)]
    run = tiny.runner(config, tmp_path / 'run', iters=4, custom_hooks=hooks)
    written: list[set[str]] = []
    run.visualizer.add_scalars = lambda scalars, step, **_: written.append(set(scalars))
    run.train()
    norms = {'kd/gradient_ratio'}
    assert [found for found in written if found <= norms] == [norms, norms, set(), set()]
