"""Weights and temperatures that change during training."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from mmengine.logging import MessageHub

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.scheduled_number import ScheduledNumber, scheduled
from mmkd_plugin.models.schedules import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    Schedule,
    StepSchedule,
)

LINEAR = dict(type='LinearSchedule', start=1.0, stop=0.0, begin=2, end=6, by_epoch=False)
WARM_UP = dict(type='LinearSchedule', start=0.0, stop=2.0, end=2, by_epoch=False)
END = dict(type='ConstantSchedule', value=0.0, begin=2, by_epoch=False)


def values_of(*pieces: Schedule, times: range) -> list[float]:
    number = ScheduledNumber(pieces, 'weight')
    found = []
    for time in times:
        number.set_time(time if not number.by_epoch else -1, time if number.by_epoch else -1)
        found.append(float(number))
    return found


@pytest.mark.parametrize('by_epoch', [True, False])
def test_values_are_those_of_the_formulas(by_epoch: bool) -> None:
    times = dict(begin=2, end=6, by_epoch=by_epoch)
    linear = values_of(LinearSchedule(1.0, 3.0, **times), times=range(9))
    assert linear == [1, 1, 1, 1.5, 2, 2.5, 3, 3, 3]
    cosine = values_of(CosineSchedule(1.0, 3.0, **times), times=range(9))
    half = [2 - math.cos(math.pi * part / 4) for part in range(5)]
    assert cosine == pytest.approx([1, 1, *half, 3, 3])
    steps = values_of(StepSchedule(8.0, [3, 5], gamma=0.5, by_epoch=by_epoch), times=range(7))
    assert steps == [8, 8, 8, 4, 4, 2, 2]
    assert values_of(ConstantSchedule(4.0, by_epoch=by_epoch), times=range(3)) == [4, 4, 4]


def test_pieces_follow_each_other() -> None:
    found = values_of(
        LinearSchedule(0.0, 1.0, end=2),
        ConstantSchedule(3.0, begin=2, end=4),
        CosineSchedule(2.0, 0.0, begin=4, end=6),
        times=range(8),
    )
    assert found == pytest.approx([0, 0.5, 3, 3, 2, 1, 0, 0])


def test_number_is_the_largest_while_it_is_built_and_computes_as_a_number() -> None:
    number = ScheduledNumber([LinearSchedule(1.0, 3.0, end=4)], 'weight')
    assert (float(number), number.lowest) == (3.0, 1.0)
    assert (number * torch.tensor(2.0)).item() == 6.0
    assert number > 2 and number == 3.0 and bool(number) and repr(number) == '3'
    number.set_time(0, 0)
    assert (0.5 * number, number > 1) == (0.5, False)


@pytest.mark.parametrize(
    ('value', 'key', 'words'),
    [
        (dict(WARM_UP, end=0), 'w.end', 'above begin'),
        (dict(WARM_UP, begin=-1), 'w.begin', '>= 0'),
        (dict(WARM_UP, start=-1.0), 'w.start', '>= 0'),
        (dict(WARM_UP, stop=float('inf')), 'w.stop', '>= 0'),
        (dict(WARM_UP, by_epoch='no'), 'w.by_epoch', 'True or False'),
        (dict(WARM_UP, ends=3), 'w.ends', 'argument'),
        (dict(type='LinearSchedule', start=1.0, stop=0.0), 'w.end', 'missing'),
        (dict(type='StepSchedule', start=1.0, milestones=[3, 2]), 'w.milestones', 'in order'),
        (dict(type='StepSchedule', start=1.0, milestones=[9], end=4), 'w.milestones', 'between'),
        ([WARM_UP, dict(END, begin=3)], 'w', 'has a gap'),
        ([WARM_UP, dict(END, begin=1)], 'w', 'overlaps'),
        ([END, dict(END, begin=4)], 'w', 'overlaps'),
        ([WARM_UP, dict(END, by_epoch=True)], 'w', 'count epochs'),
        (dict(type='LineSchedule', start=1.0), 'w.type', 'nearest'),
    ],
)
def test_wrong_schedule_is_refused(value: Any, key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        scheduled(dict(type='SoftTarget', w=value), 'methods.kd')
    assert caught.value.key == f'methods.kd.{key}'


@pytest.mark.parametrize(
    ('method', 'key'),
    [
        (dict(type='SoftTarget', temperature=WARM_UP), 'methods.kd.temperature'),
        (dict(type='SoftTarget', ensemble=WARM_UP), 'methods.kd.ensemble'),
    ],
)
def test_temperature_0_and_a_schedule_in_the_place_of_a_word_are_refused(
    method: Any, key: str, tmp_path: Path
) -> None:
    with raises_config_error(key, ANY):
        tiny.distiller(tmp_path, methods=dict(kd=method))


# Distillers


def at(iteration: int, epoch: int = 0) -> None:
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', iteration)
    hub.update_info('epoch', epoch)
    hub.update_info('max_epochs', 9)


def hint(layer: str, **changes: Any) -> dict[str, Any]:
    pair = dict(student=f'backbone.{layer}', teacher=f'backbone.{layer}')
    return dict(type='Hint', pairs=[pair], **changes)


def test_losses_follow_weight_and_temperature(tmp_path: Path) -> None:
    temperature = dict(type='LinearSchedule', start=2.0, stop=4.0, end=4, by_epoch=False)
    model = tiny.distiller(
        tmp_path,
        methods=dict(kd=dict(type='SoftTarget', loss_weight=LINEAR, temperature=temperature)),
    ).train()
    for iteration, weight, tau in ((0, 1.0, 2.0), (3, 0.75, 3.5), (4, 0.5, 4.0)):
        at(iteration)
        found = tiny.losses_of(model)
        plain = tiny.distiller(
            tmp_path, methods=dict(kd=dict(type='SoftTarget', loss_weight=weight, temperature=tau))
        ).train()
        plain.student.load_state_dict(model.student.state_dict())
        expected = tiny.losses_of(plain)['kd.loss_kd']
        assert found['kd.loss_kd'].item() == pytest.approx(expected.item(), rel=1e-4)
        assert (found['kd.weight'].item(), found['kd.temperature'].item()) == (weight, tau)


def test_teacher_that_no_working_method_needs_does_not_run(tmp_path: Path) -> None:
    model = tiny.distiller(
        tmp_path,
        teachers=tiny.teachers(tmp_path, 2),
        methods=dict(
            late=hint('layer1', loss_weight=WARM_UP), early=hint('layer2', loss_weight=LINEAR)
        ),
    ).train()
    ran = []
    for teacher in model.teachers:
        name = teacher.name
        teacher.model.backbone.conv1.register_forward_hook(lambda *_, n=name: ran.append(n))
    names = {}
    for iteration in (0, 1, 6):
        at(iteration)
        losses = tiny.losses_of(model)
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        names[iteration] = {name for name in losses if not name.startswith('task')}
        assert all(one.grad is not None for one in model.methods.parameters())
    assert 'late.loss_rest' in names[0] and 'early.loss_hint' in names[0]
    assert 'late.loss_hint' in names[1] and 'early.loss_hint' in names[1]
    assert 'late.loss_hint' in names[6] and losses['early.loss_hint'] == 0
    assert ran == ['t0'] * 3  # no method needs the other
    ran.clear()
    model.methods.numbers['late']['loss_weight']._pieces = model.methods.numbers['early'][
        'loss_weight'
    ]._pieces
    at(7)
    losses = tiny.losses_of(model)
    assert not ran
    assert (losses['late.loss_hint'], losses['early.loss_hint']) == (0, 0)


def test_method_that_rests_at_first_is_checked_when_it_works(tmp_path: Path) -> None:
    model = tiny.distiller(
        tmp_path,
        teachers=tiny.teachers(tmp_path, 1),
        methods=dict(late=hint('layer1', loss_weight=WARM_UP)),
    ).train()
    model.student.backbone.requires_grad_(False)
    at(0)
    tiny.losses_of(model)
    at(1)
    with raises_config_error('methods.late', 'backbone.layer1', 'no gradient'):
        tiny.losses_of(model)


def test_after_all_schedules_have_ended_a_step_is_that_of_the_student(tmp_path: Path) -> None:
    model = tiny.distiller(
        tmp_path, methods=dict(kd=dict(type='SoftTarget', loss_weight=LINEAR))
    ).train()
    at(6)
    losses = tiny.losses_of(model)
    assert {name for name in losses if 'loss' in name} == {'task.loss'}
    assert losses['kd.weight'] == 0


def test_weights_that_can_all_be_0_need_a_task(tmp_path: Path) -> None:
    kd = dict(type='SoftTarget', loss_weight=LINEAR)
    with raises_config_error('task_weight', 0.0, 'nothing would be trained'):
        tiny.distiller(tmp_path, task_weight=0, methods=dict(kd=kd))
    tiny.distiller(tmp_path, task_weight=0, methods=dict(kd=kd, hint=hint('layer1')))


def test_epochs_of_a_run_by_iterations_are_refused(tmp_path: Path) -> None:
    weight = dict(type='LinearSchedule', start=1.0, stop=0.0, end=6)
    model = tiny.distiller(tmp_path, methods=dict(kd=dict(type='SoftTarget', loss_weight=weight)))
    at(0)
    MessageHub.get_current_instance().update_info('max_epochs', 1)
    with raises_config_error('methods.kd.loss_weight', 6, fix='by_epoch=False'):
        tiny.losses_of(model.train())


@pytest.mark.parametrize('mutual', [False, True])
def test_run_that_resumes_continues_the_schedule_bit_for_bit(mutual: bool, tmp_path: Path) -> None:
    kd = dict(type='SoftTarget', loss_weight=[WARM_UP, dict(LINEAR, begin=2)])
    config = (
        tiny.mutual_config(methods=dict(kd=kd))
        if mutual
        else tiny.distiller_config(tmp_path, methods=dict(kd=kd, hint=hint('layer1')))
    )
    own = dict(optim_wrapper=tiny.peer_optimizers()) if mutual else {}
    whole = tiny.runner(config, tmp_path / 'whole', iters=8, **own)
    whole.train()
    tiny.runner(config, tmp_path / 'parts', iters=3, **own).train()
    resumed = tiny.runner(config, tmp_path / 'parts', iters=8, resume=True, **own)
    resumed.train()
    assert not tiny.differing(whole.model.state_dict(), resumed.model.state_dict())
