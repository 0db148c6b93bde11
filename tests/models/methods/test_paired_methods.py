"""What methods on maps share, and attention transfer, factor transfer and overhaul by their equations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.classification import knowledge
from torch import Tensor

from mmkd_plugin.models.losses import (
    attention_transfer_loss,
    factor_transfer_loss,
    overhaul_loss,
    overhaul_margin,
)
from mmkd_plugin.models.methods import AttentionTransfer, FactorTransfer, Method, Overhaul
from mmkd_plugin.outputs import Knowledge

LOW, HIGH = dict(student='low', teacher='low'), dict(student='high', teacher='high', index=1)
SCALE, SHIFT = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.1]), torch.tensor([0.0, 0.3, -1.0, 2.0, 0.0])


def seen() -> tuple[Knowledge, list[Knowledge]]:
    student = knowledge(
        low=torch.randn(3, 4, 8, 8), high=torch.randn(3, 6, 4, 4), flat=torch.randn(3, 6)
    )
    norms = dict(bn=(SCALE, SHIFT), wide=(torch.ones(7), torch.zeros(7)))
    teachers = [
        Knowledge(None, dict(low=torch.randn(3, 5, 4, 4)), norms),
        Knowledge(None, dict(high=torch.randn(3, 7, 8, 8)), norms),
    ]
    return student, teachers


def with_gradient(student: Knowledge) -> Knowledge:
    return Knowledge(
        None, {name: value.clone().requires_grad_() for name, value in student.features.items()}
    )


def bound(method: Method) -> tuple[Method, Knowledge, list[Knowledge]]:
    student, teachers = seen()
    for index in range(len(teachers)):
        method.taps_of_teacher(index, len(teachers))
    method.bind(student, teachers)
    return method, student, teachers


OVERHAUL = [dict(LOW, norm='bn'), dict(HIGH, norm='wide')]
MAKERS: list[Callable[..., Method]] = [
    lambda **more: AttentionTransfer([LOW, HIGH], **more),
    lambda **more: FactorTransfer([LOW, HIGH], **more),
    lambda **more: Overhaul(OVERHAUL, **more),
]


@pytest.mark.parametrize('make', MAKERS)
def test_gradients_reach_the_student_and_every_connector_but_no_teacher(
    make: Callable[..., Method],
) -> None:
    method, student, teachers = bound(make())
    own = with_gradient(student)
    features = [
        value.requires_grad_() for teacher in teachers for value in teacher.features.values()
    ]
    losses = method(own, teachers, None)
    assert all(
        name.startswith('loss') and value.dtype == torch.float32 for name, value in losses.items()
    )
    sum(losses.values()).backward()
    assert own.features['low'].grad.abs().sum() > 0
    assert own.features['high'].grad.abs().sum() > 0
    assert own.features['flat'].grad is None
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for p in method.parameters()
        if p.requires_grad
    )
    assert all(value.grad is None for value in features)


@pytest.mark.parametrize('make', MAKERS)
def test_the_weight_scales_and_zero_takes_no_part(make: Callable[..., Method]) -> None:
    torch.manual_seed(3)
    one, student, teachers = bound(make(loss_weight=1.0))
    torch.manual_seed(3)
    two, *_ = bound(make(loss_weight=2.0))
    ((_, single),) = one(student, teachers, None).items()
    two.load_state_dict(one.state_dict())
    if two.apart is not None:
        two.apart.load_state_dict(one.apart.state_dict())
    ((_, double),) = two.eval()(student, teachers, None).items()
    ((_, single),) = one.eval()(student, teachers, None).items()
    torch.testing.assert_close(double, 2 * single)
    assert one.active
    assert not make(loss_weight=0.0).active
    with pytest.raises(ValueError, match=r'^loss_weight: expected a number >= 0, got -1$'):
        make(loss_weight=-1)


@pytest.mark.parametrize('make', MAKERS)
@pytest.mark.parametrize(('side', 'shape'), [('student', (3, 6)), ('teacher', (3, 17, 6))])
def test_a_tap_that_gives_no_map_is_refused(
    make: Callable[..., Method], side: str, shape: tuple[int, ...]
) -> None:
    student, teachers = seen()
    changed = student if side == 'student' else teachers[0]
    changed.features['low'] = torch.randn(shape)  # type: ignore[index]
    with pytest.raises(
        ValueError,
        match=rf"^pairs\[0\]\.{side}: expected a tap that gives maps .*'low' gives \({shape[0]}, {shape[1]}",
    ):
        make().bind(student, teachers)


def test_attention_is_the_mean_of_no_channels() -> None:
    method, student, teachers = bound(AttentionTransfer([LOW, HIGH], loss_weight=3.0))
    expected = 3.0 * (
        attention_transfer_loss(student.features['low'], teachers[0].features['low'])
        + attention_transfer_loss(student.features['high'], teachers[1].features['high'])
    )
    torch.testing.assert_close(method(student, teachers, None)['loss_attention'], expected)
    assert not list(method.parameters())


def test_factor_transfer_translates_to_what_the_paraphraser_says() -> None:
    method, student, teachers = bound(
        FactorTransfer([LOW], loss_weight=2.0, paraphraser=dict(factor_channels=2))
    )
    (paraphraser,) = method.apart.paraphrasers
    factor = paraphraser.encode(teachers[0].features['low'])
    translated = method.encoders[0](student.features['low'])
    assert factor.shape[1] == translated.shape[1] == 2
    paraphraser.eval()
    expected = 2.0 * factor_transfer_loss(
        translated, paraphraser.encode(teachers[0].features['low'])
    )
    torch.testing.assert_close(method(student, teachers, None)['loss_factor'], expected)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in method.modules()), (
        "as its authors' code"
    )


def test_what_learns_along_is_no_child_and_learns_from_the_teachers_alone() -> None:
    method, student, teachers = bound(FactorTransfer([LOW, HIGH]))
    apart = method.apart
    assert apart is not None
    assert not any('paraphras' in name for name, _ in method.named_parameters())
    features = [teacher.features for teacher in teachers]
    target = features[0]['low'].requires_grad_()
    facts = apart(teachers)
    assert set(facts) == {'loss_rec', 'relative_error'}
    facts['loss_rec'].backward()
    assert target.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in apart.parameters())
    before = [p.grad.clone() for p in apart.parameters()]
    method(with_gradient(student), teachers, None)['loss_factor'].backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(apart.parameters(), before, strict=True)), (
        'only read by the method'
    )


def overhaul_reference(
    method: Overhaul, maps: list[tuple[Tensor, Tensor]], scales: list[tuple[Tensor, Tensor]]
) -> Tensor:
    total = torch.zeros(())
    for level, ((source, target), (scale, shift)) in enumerate(zip(maps, scales, strict=True)):
        loss = overhaul_loss(
            method.connectors[level](source), target, overhaul_margin(scale, shift)
        )
        total = total + loss / (1000 * 2 ** (len(maps) - level - 1))
    return total


def test_overhaul_weighs_levels_and_takes_margins_from_the_teachers_norms() -> None:
    method, student, teachers = bound(Overhaul(OVERHAUL, loss_weight=1.0))
    assert [method.norms_of_teacher(index, 2) for index in range(2)] == [('bn',), ('wide',)]
    method.eval()
    maps = [
        (student.features['low'], teachers[0].features['low']),
        (student.features['high'], teachers[1].features['high']),
    ]
    expected = overhaul_reference(method, maps, [(SCALE, SHIFT), teachers[1].norms['wide']])
    torch.testing.assert_close(method(student, teachers, None)['loss_overhaul'], expected)
    assert {'margins.margin0', 'margins.margin1'} <= method.state_dict().keys()


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: Overhaul([LOW]), r"^pairs\[0\]\.norm: expected the path of the teacher's BatchNorm layer .* got None$"),
        (lambda: bound(Overhaul([dict(LOW, norm='wide')])), r"^pairs\[0\]\.norm: expected the 5 channels of 'low', got 7$"),
        (lambda: bound(Overhaul([dict(LOW, norm='none')])), r'^pairs\[0\]\.norm: expected a frozen teacher'),
        (lambda: AttentionTransfer([dict(LOW, norm='bn')]), r'^pairs\[0\]: expected dict\(student=…, teacher=…\) and of'),
        (lambda: FactorTransfer([dict(LOW, checkpoint='a.pth'), HIGH]), r'^pairs\[1\]\.checkpoint: expected one in every pair'),
        (
            lambda: FactorTransfer([dict(LOW, checkpoint='a.pth')], paraphraser=dict(norm=None)),
            r'^paraphraser: expected none where pairs have a checkpoint',
        ),
        (lambda: bound(FactorTransfer([LOW], paraphraser=dict(factor_rate=-1))), r'^paraphraser\.factor_rate: expected a number > 0'),
        (lambda: bound(FactorTransfer([LOW], paraphraser=dict(factor=1))), r'^paraphraser: expected other arguments: .*factor'),
        (lambda: bound(FactorTransfer([LOW], encoder=dict(norm='ln'))), r'^encoder\.norm: expected'),
        (lambda: FactorTransfer([LOW], paraphraser=dict(type='Hint')), r"^paraphraser\.type: expected 'Paraphraser', got 'Hint'$"),
        (lambda: bound(FactorTransfer([dict(LOW, checkpoint='a.pth')])), r'^pairs\[0\]\.checkpoint: expected a checkpoint file'),
    ],
)  # fmt: skip
def test_what_does_not_fit(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
