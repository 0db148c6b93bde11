"""The contract of all methods on pairs of maps. A new one is one row of the table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from torch import Tensor, nn

from mmkd_plugin.models.methods import (
    IEKD,
    AttentionTransfer,
    FactorTransfer,
    FeatureMethod,
    Hint,
    Overhaul,
    PairedMethod,
    Requests,
)
from mmkd_plugin.outputs import NetworkOutput

#: Two pairs, of the first and of the second teacher, with what overhaul needs.
LOW = dict(student='low', teacher='low')
HIGH = dict(student='high', teacher='high', index=1)
NORMS = {'low': 'bn', 'high': 'wide'}
NETWORK = nn.ModuleDict({'bn': nn.BatchNorm2d(5), 'wide': nn.BatchNorm2d(7)})


@dataclass(frozen=True)
class Case:
    """One method.

    Args:
        kind: Its class.
        options: Its arguments beside the pairs.
        losses: Names of its losses.
        weights: Names of its weights.
        frozen: Whether it is built for frozen teachers, or for peers.
        norm: Whether its pairs have the key ``norm``.
        vectors: Whether it takes vectors (N, C) too.
    """

    kind: type[PairedMethod]
    losses: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[str, ...] = ('loss_weight',)
    frozen: bool = True
    norm: bool = False
    vectors: bool = False

    def __call__(self, *pairs: Any, **changes: Any) -> PairedMethod:
        """Make the method; ``norm`` is added to the pairs that lack it."""
        if self.norm:
            norms = [{'norm': NORMS.get(pair.get('teacher'), 'bn')} for pair in pairs]
            pairs = tuple({**norm, **pair} for norm, pair in zip(norms, pairs, strict=True))
        return self.kind(pairs=list(pairs), **{**self.options, **changes})

    def weighted(self, weight: float) -> PairedMethod:
        return self(LOW, HIGH, **dict.fromkeys(self.weights, weight))

    def build(self, method: PairedMethod, student: NetworkOutput, teachers: Any) -> Any:
        return tiny.built(method, student, teachers, self.frozen, NETWORK)


IE_LOSSES = dict(
    losses=('loss_inherit', 'loss_explore'), weights=('inherit_weight', 'explore_weight')
)
CASES = {
    'attention': Case(AttentionTransfer, ('loss_attention',)),
    'factor': Case(FactorTransfer, ('loss_factor',), frozen=False),
    'hint': Case(Hint, ('loss_hint',), vectors=True),
    'overhaul': Case(Overhaul, ('loss_overhaul',), norm=True),
    'feature-hint': Case(
        FeatureMethod,
        ('loss_feature',),
        dict(loss=dict(type='HintLoss'), connector=dict(type='HintRegressor')),
        vectors=True,
    ),
    'feature-attention': Case(
        FeatureMethod, ('loss_feature',), dict(loss=dict(type='AttentionTransferLoss'))
    ),
    'ie-factor': Case(IEKD, frozen=False, **IE_LOSSES),
    'ie-attention': Case(IEKD, options=dict(knowledge='attention'), **IE_LOSSES),
    'ie-overhaul': Case(IEKD, options=dict(knowledge='overhaul'), norm=True, **IE_LOSSES),
}
EVERY = pytest.mark.parametrize('case', CASES.values(), ids=CASES)


def outputs() -> tuple[NetworkOutput, list[NetworkOutput]]:
    student = dict(
        low=torch.randn(3, 4, 8, 8),
        high=torch.randn(3, 6, 4, 4),
        flat=torch.randn(3, 6),
        tokens=torch.randn(3, 17, 6),
    )
    first = dict(low=torch.randn(3, 5, 4, 4), flat=torch.randn(3, 5), tokens=torch.randn(3, 17, 5))
    second = dict(high=torch.randn(3, 7, 8, 8))
    return tiny.output(**student), [tiny.output(**first), tiny.output(**second)]


def with_gradient(one: NetworkOutput) -> NetworkOutput:
    return tiny.output(**{name: x.clone().requires_grad_() for name, x in one.features.items()})


def outputs_with_gradient() -> tuple[NetworkOutput, list[NetworkOutput]]:
    student, teachers = outputs()
    return with_gradient(student), [with_gradient(one) for one in teachers]


def total(losses: Mapping[str, Tensor]) -> Tensor:
    return sum(value for name, value in losses.items() if 'loss' in name)


@EVERY
def test_gradient_reaches_the_tapped_maps_of_the_student_alone_and_moves_every_connector(
    case: Case,
) -> None:
    student, teachers = outputs_with_gradient()
    method = case.build(case(LOW, HIGH), student, teachers)
    before = [p.detach().clone() for p in method.parameters()]
    losses = method(student, teachers, None)
    assert {name for name in losses if 'loss' in name} == set(case.losses)
    assert all(losses[name].dtype == torch.float32 for name in case.losses)
    assert all(losses[name].ndim == 0 and losses[name].isfinite() for name in losses)
    total(losses).backward()
    for tap, feature in student.features.items():
        reached = feature.grad is not None and bool(feature.grad.abs().sum() > 0)
        assert reached is (tap in ('low', 'high')), tap
    assert all(x.grad is None for teacher in teachers for x in teacher.features.values())
    if method.auxiliary is not None:
        assert all(p.grad is None for p in method.auxiliary.parameters()), 'has its own loss'
    if before:
        torch.optim.SGD(method.parameters(), lr=0.1).step()
    assert not any(p.equal(old) for p, old in zip(method.parameters(), before, strict=True))


@EVERY
def test_weight_scales_the_losses(case: Case) -> None:
    student, teachers = outputs()
    one, two = (case.build(case.weighted(w), student, teachers).eval() for w in (1.0, 2.0))
    two.load_state_dict(one.state_dict())
    if one.auxiliary is not None:
        two.auxiliary.load_state_dict(one.auxiliary.state_dict())
        one.auxiliary.eval()
        two.auxiliary.eval()
    single, double = (method(student, teachers, None) for method in (one, two))
    for name in case.losses:
        assert single[name] != 0
        torch.testing.assert_close(double[name], 2 * single[name])


@EVERY
def test_weight_zero_makes_the_method_inactive_and_a_negative_one_is_refused(case: Case) -> None:
    assert case.weighted(0.5).active
    assert not case.weighted(0.0).active
    for weight in case.weights:
        with raises_config_error(weight, -1, 'must be a number >= 0'):
            case(LOW, **{weight: -1})


@pytest.mark.parametrize('name', [name for name, case in CASES.items() if case.kind is not IEKD])
def test_loss_is_the_weighted_sum_over_pairs(name: str) -> None:
    """IE-KD has two losses a pair: see its own tests."""
    case = CASES[name]
    student, teachers = outputs()
    method = case.build(case.weighted(3.0), student, teachers).eval()
    if method.auxiliary is not None:
        method.auxiliary.eval()
    pairs = enumerate(method.maps(student, teachers))
    expected = 3 * sum(method.pair_loss(number, *maps) for number, maps in pairs)
    torch.testing.assert_close(method(student, teachers, None), {case.losses[0]: expected})


@EVERY
def test_half_precision_maps_give_losses_in_float32(case: Case) -> None:
    student, teachers = outputs()
    method = case.build(case(LOW, HIGH), student, teachers)
    half = [
        tiny.output(**{name: x.bfloat16() for name, x in one.features.items()})
        for one in (student, *teachers)
    ]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = method(half[0], half[1:], None)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert all(value.isfinite() for value in losses.values())


@EVERY
def test_requests_are_the_taps_of_the_pairs(case: Case) -> None:
    method = case(LOW, HIGH, dict(student='flat', teacher='flat', index=1))
    taps = (('low',), ('high', 'flat'), ())
    assert method.requests(3) == Requests(('low', 'high', 'flat'), taps)


@EVERY
@pytest.mark.parametrize('pairs', [[], 'backbone', None, dict(LOW)])
def test_pairs_that_are_no_list_are_refused(case: Case, pairs: Any) -> None:
    with raises_config_error('pairs', pairs, 'must be a list'):
        case.kind(pairs=pairs, **case.options)


@EVERY
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_pair_without_a_tap_is_refused(case: Case, side: str) -> None:
    pair = {name: value for name, value in HIGH.items() if name != side}
    with raises_config_error(f'pairs[1].{side}', ANY, 'is missing', fix='Name a tap'):
        case(LOW, pair)


@EVERY
def test_pair_with_an_unknown_key_is_refused(case: Case) -> None:
    known = 'student, teacher, index, student_channels, teacher_channels'
    with raises_config_error('pairs[1].channels', 3, case.kind.__name__, fix=known):
        case(LOW, dict(HIGH, channels=3))


@EVERY
def test_pair_that_is_no_dict_is_refused(case: Case) -> None:
    with raises_config_error('pairs[0]', 'low', 'dict(student=…, teacher=…)'):
        case.kind(pairs=['low'], **case.options)


@EVERY
@pytest.mark.parametrize('index', [2, -1, 't0', None])
def test_index_of_no_teacher_is_refused(case: Case, index: Any) -> None:
    with raises_config_error('pairs[1].index', index, 'one of 2 teachers'):
        case(LOW, dict(HIGH, index=index)).requests(2)


@EVERY
@pytest.mark.parametrize(('side', 'found'), [('student', 6), ('teacher', 7)])
def test_stated_channels_must_be_those_of_the_map(case: Case, side: str, found: int) -> None:
    student, teachers = outputs()
    key = f'{side}_channels'
    case.build(case(LOW, {**HIGH, key: found}), student, teachers)
    with raises_config_error(f'pairs[1].{key}', 9, f'must be {found}'):
        case.build(case(LOW, {**HIGH, key: 9}), student, teachers)


@EVERY
@pytest.mark.parametrize('tap', ['flat', 'tokens'])
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_tap_of_another_form_is_refused(case: Case, side: str, tap: str) -> None:
    """Tokens are no map; a vector is refused by methods on maps, and beside a map by all."""
    student, teachers = outputs()
    shape = tuple((student if side == 'student' else teachers[0]).feature(tap).shape)
    method = case(dict(LOW, **{side: tap}))
    if tap == 'flat' and not case.kind.maps_only:
        both = {'student': (3, 4, 8, 8), 'teacher': (3, 5, 4, 4), side: shape}
        expected = 'pairs[0].teacher', both['teacher'], f'{both["student"]}'
    else:
        expected = f'pairs[0].{side}', shape, f'{tap!r}', '(N, C, H, W)'
    with raises_config_error(*expected):
        case.build(method, student, teachers)


@EVERY
def test_pair_of_vectors_is_compared_by_methods_on_features_alone(case: Case) -> None:
    student, teachers = outputs()
    method = case(dict(student='flat', teacher='flat'))
    if not case.vectors:
        with raises_config_error('pairs[0].student', (3, 6), '(N, C, H, W)'):
            case.build(method, student, teachers)
        return
    losses = case.build(method, student, teachers)(student, teachers, None)
    assert losses[case.losses[0]] > 0


class Energy(PairedMethod):
    """A method of one's own on maps: a template needs the loss of one pair and its name."""

    loss_name = 'loss_energy'

    def __init__(self, pairs: Any, loss_weight: float = 1.0) -> None:
        super().__init__(pairs, loss_weight=loss_weight)

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        return (student.square().mean() - teacher.square().mean()).abs()


def test_template_needs_no_more_than_the_loss_of_one_pair() -> None:
    student, teachers = outputs()
    method = tiny.built(Energy([LOW, HIGH], loss_weight=2.0), student, teachers)
    energies = [
        (student.feature(tap).square().mean() - teacher.feature(tap).square().mean()).abs()
        for tap, teacher in zip(('low', 'high'), teachers, strict=True)
    ]
    losses = method(student, teachers, None)
    torch.testing.assert_close(losses, {'loss_energy': 2 * (energies[0] + energies[1])})


@pytest.mark.parametrize('norm_or_checkpoint', ['norm', 'checkpoint'])
@pytest.mark.parametrize(
    ('make', 'taken'),
    [
        (AttentionTransfer, ()),
        (Hint, ()),
        (FactorTransfer, ('checkpoint',)),
        (Overhaul, ('norm',)),
    ],
)
def test_keys_of_other_methods_are_unknown(
    make: Callable[..., PairedMethod], taken: tuple[str, ...], norm_or_checkpoint: str
) -> None:
    pair = {**LOW, **dict.fromkeys(taken, 'x'), norm_or_checkpoint: 'x'}
    if norm_or_checkpoint in taken:
        make([pair])
        return
    key = f'pairs[0].{norm_or_checkpoint}'
    with raises_config_error(key, 'x', f'a pair of {make.__name__}', fix='student, teacher'):
        make([pair])
