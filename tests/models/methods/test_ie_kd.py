from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.classification import built, output
from helpers.errors import raises_config_error
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.models.losses import (
    exploration_loss,
    factor_distance,
    linear_cka,
    overhaul_loss,
    overhaul_margin,
)
from mmkd_plugin.models.methods import IEKD
from mmkd_plugin.outputs import NetworkOutput

PAIR = dict(student='map', teacher='map')
SCALE, SHIFT = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.1]), torch.tensor([0.0, 0.3, -1.0, 2.0, 0.0])
OVERHAUL = dict(knowledge='overhaul', pairs=[dict(PAIR, norm='bn')])
KINDS = pytest.mark.parametrize(
    'options', [dict(), dict(knowledge='attention'), OVERHAUL], ids=['factor', 'attention', 'od']
)


def network() -> nn.Module:
    net = nn.ModuleDict({'bn': nn.BatchNorm2d(5)})
    net['bn'].weight.data, net['bn'].bias.data = SCALE, SHIFT
    return net


def teacher_output(size: int = 4, images: int = 3) -> NetworkOutput:
    return output(map=torch.randn(images, 5, size, size), low=torch.randn(images, 3, 8, 8))


def student_output(channels: int = 6, images: int = 3, size: int = 4) -> NetworkOutput:
    maps = dict(map=torch.rand(images, channels, size, size), low=torch.rand(images, 4, 8, 8))
    return output(**{name: value.requires_grad_() for name, value in maps.items()})


def build(
    student: NetworkOutput | None = None, teacher: NetworkOutput | None = None, **options: Any
) -> IEKD:
    """Build the method in eval mode, so that a paraphraser gives the same factor twice."""
    method = IEKD(**{'pairs': [PAIR], **options})
    frozen = options.get('knowledge') == 'overhaul'
    both = student or student_output(), [teacher or teacher_output()]
    built(method, *both, frozen, network())
    if method.auxiliary is not None:
        method.auxiliary.eval()
    return method.eval()


def parts_of(method: IEKD, student: NetworkOutput) -> dict[str, Tensor]:
    (split,) = method.splits
    feature = student.feature('map')
    return {
        'inherit': feature[:, split.inherit_index],
        'explore': feature[:, split.explore_index],
    }


def encoded_parts(method: IEKD, student: NetworkOutput) -> dict[str, Tensor]:
    encoders = method.transform.encoders
    return {part: encoders[part][0](x) for part, x in parts_of(method, student).items()}


def factor_of(method: IEKD, teacher: NetworkOutput) -> Tensor:
    return method.auxiliary.paraphrasers[0].encode(teacher.feature('map')).detach()


def test_factor_losses_and_metrics_equal_the_equations() -> None:
    student, teacher = student_output(), teacher_output()
    method = build(student, teacher, inherit_weight=50.0, explore_weight=20.0)
    split = method.splits[0]
    both = split.inherit_index.tolist() + split.explore_index.tolist()
    assert sorted(both) == list(range(6))
    factor = factor_of(method, teacher)
    unit = {p: F.normalize(x.flatten(1), dim=1) for p, x in encoded_parts(method, student).items()}
    target = F.normalize(factor.flatten(1), dim=1)
    rows = [
        torch.stack([x[n, :, i, j] for n in range(3) for i in range(4) for j in range(4)])
        for x in parts_of(method, student).values()
    ]
    expected = {
        'loss_inherit': 50 * (unit['inherit'] - target).abs().mean(),
        'loss_explore': -20 * (unit['explore'] - target).abs().mean(),
        'inherit_cosine': (unit['inherit'] * target).sum(dim=1).mean(),
        'explore_cosine': (unit['explore'] * target).sum(dim=1).mean(),
        'cka': linear_cka(*rows),
        'inherit_gradient': torch.zeros(()),
        'explore_gradient': torch.zeros(()),
    }
    torch.testing.assert_close(dict(method(student, [teacher], None)), expected)


def test_attention_of_each_part_is_compared_with_the_teachers() -> None:
    student, teacher = student_output(), teacher_output()
    options = dict(knowledge='attention', inherit_weight=3.0, explore_weight=2.0)
    method = build(student, teacher, **options)
    maps = [
        F.normalize(x.square().mean(1).flatten(1), dim=1)
        for x in (*parts_of(method, student).values(), teacher.feature('map'))
    ]
    losses = method(student, [teacher], None)
    torch.testing.assert_close(losses['loss_inherit'], 3 * (maps[0] - maps[2]).square().mean())
    torch.testing.assert_close(losses['loss_explore'], -2 * (maps[1] - maps[2]).square().mean())
    assert not list(method.parameters()), 'attention needs no connector'
    assert method.auxiliary is None


def test_overhaul_inherits_by_its_own_loss_and_explores_by_a_bounded_one() -> None:
    student, teacher = student_output(), teacher_output()
    method = build(student, teacher, **OVERHAUL, inherit_weight=3.0, explore_weight=2.0)
    encoded, target = encoded_parts(method, student), teacher.feature('map')
    margin = overhaul_margin(SCALE, SHIFT)
    torch.testing.assert_close(method.transform.margins.of(0), margin)
    losses = method(student, [teacher], None)
    inherited = overhaul_loss(encoded['inherit'], target, margin)
    torch.testing.assert_close(losses['loss_inherit'], 3 * inherited / 1000)
    limited = torch.maximum(target, margin.view(1, -1, 1, 1))
    explored = exploration_loss(encoded['explore'], limited, 'partial_l2')
    torch.testing.assert_close(losses['loss_explore'], 2 * explored)


@KINDS
def test_gradient_reaches_every_channel_of_both_parts(options: dict[str, Any]) -> None:
    student, teacher = student_output(), teacher_output()
    losses = build(student, teacher, **options).train()(student, [teacher], None)
    (losses['loss_inherit'] + losses['loss_explore']).backward()
    assert (student.feature('map').grad.flatten(2).abs().sum(dim=(0, 2)) > 0).all()


def test_gradient_norm_of_each_part_is_logged_a_step_later() -> None:
    student, teacher = student_output(), teacher_output()
    method = build(student, teacher)
    first = method(student, [teacher], None)
    assert first['inherit_gradient'] == first['explore_gradient'] == 0
    (first['loss_inherit'] + first['loss_explore']).backward()
    gradient, split = student.feature('map').grad, method.splits[0]
    second = method(student, [teacher], None)
    for part in ('inherit', 'explore'):
        expected = gradient[:, getattr(split, f'{part}_index')].norm()
        torch.testing.assert_close(second[f'{part}_gradient'], expected)
    assert 'gradient_norms' not in method.state_dict()


def test_direction_toward_is_the_opposite_of_away_for_the_part_that_explores() -> None:
    student, teacher = student_output(), teacher_output()
    away = build(student, teacher)
    toward = build(student, teacher, explore_direction='toward')
    toward.load_state_dict(away.state_dict())
    toward.auxiliary.load_state_dict(away.auxiliary.state_dict())
    one, other = away(student, [teacher], None), toward(student, [teacher], None)
    torch.testing.assert_close(one['loss_explore'], -other['loss_explore'])
    torch.testing.assert_close(one['loss_inherit'], other['loss_inherit'])


def test_target_student_explores_away_from_the_inherited_factor_detached() -> None:
    student, teacher = student_output(), teacher_output()
    method = build(student, teacher, explore_target='student', explore_weight=1.0)
    encoded = encoded_parts(method, student)
    loss = method(student, [teacher], None)['loss_explore']
    torch.testing.assert_close(loss, exploration_loss(encoded['explore'], encoded['inherit']))
    loss.backward()
    assert all(p.grad is None for p in method.transform.encoders['inherit'].parameters())
    assert any(p.grad is not None for p in method.transform.encoders['explore'].parameters())


@pytest.mark.parametrize(('part', 'other'), [('inherit', 'explore'), ('explore', 'inherit')])
@KINDS
def test_part_without_weight_builds_no_encoder_and_has_no_loss(
    part: str, other: str, options: dict[str, Any]
) -> None:
    method = build(**options, **{f'{other}_weight': 0.0})
    losses = method(student_output(), [teacher_output()], None)
    assert {name for name in losses if 'loss' in name} == {f'loss_{part}'}
    assert set(method.transform.encoders) <= {part}
    assert method.active


def test_distances_and_reduction_are_those_of_the_losses() -> None:
    student, teacher = student_output(), teacher_output()
    distances = dict(inherit_distance='cosine', explore_distance='orthogonal')
    weights = dict(inherit_weight=1.0, explore_weight=1.0)
    method = build(student, teacher, **distances, **weights, reduction='size_invariant')
    factor, encoded = factor_of(method, teacher), encoded_parts(method, student)
    losses = method(student, [teacher], None)
    torch.testing.assert_close(
        losses['loss_inherit'],
        factor_distance(encoded['inherit'], factor, 'cosine', 'size_invariant'),
    )
    torch.testing.assert_close(
        losses['loss_explore'],
        exploration_loss(encoded['explore'], factor, 'orthogonal', 'size_invariant'),
    )


@KINDS
@pytest.mark.parametrize(('size', 'images'), [(8, 3), (2, 3), (4, 1)])
def test_other_sizes_and_a_single_image_are_finite(
    options: dict[str, Any], size: int, images: int
) -> None:
    student, teacher = student_output(images=images), teacher_output(size, images)
    losses = build(student, teacher, **options)(student, [teacher], None)
    assert all(value.isfinite() for value in losses.values())


@KINDS
def test_constant_maps_have_finite_losses_and_gradients(options: dict[str, Any]) -> None:
    student, teacher = student_output(), teacher_output()
    method = build(student, teacher, **options).train()
    student.feature('map').data.zero_()
    teacher.feature('map').zero_()
    losses = method(student, [teacher], None)
    (losses['loss_inherit'] + losses['loss_explore']).backward()
    assert all(value.isfinite() for value in losses.values())
    assert student.feature('map').grad.isfinite().all()


def test_pairs_add_their_losses_and_average_their_metrics() -> None:
    student, teacher = student_output(), teacher_output()
    pairs = [PAIR, dict(student='low', teacher='low')]
    both = build(student, teacher, pairs=pairs, knowledge='attention')
    each = [build(student, teacher, pairs=[pair], knowledge='attention') for pair in pairs]
    for one, split in zip(each, both.splits, strict=True):
        one.splits[0].load_state_dict(split.state_dict())
    total, first, second = (method(student, [teacher], None) for method in (both, *each))
    for name in ('loss_inherit', 'loss_explore'):
        torch.testing.assert_close(total[name], first[name] + second[name])
    for name in ('cka', 'inherit_cosine', 'explore_cosine'):
        torch.testing.assert_close(total[name], (first[name] + second[name]) / 2)


CHECKPOINT, NORM = dict(PAIR, checkpoint='x'), dict(PAIR, norm='bn')


@pytest.mark.parametrize(
    ('make', 'key', 'found', 'mentions'),
    [
        (lambda: IEKD([PAIR], knowledge='hint'), 'knowledge', 'hint', "'attention', 'overhaul'"),
        (lambda: IEKD([PAIR], explore_target='me'), 'explore_target', 'me', "'teacher', 'student'"),
        (lambda: IEKD([PAIR], explore_direction='up'), 'explore_direction', 'up', "'toward'"),
        (lambda: IEKD([PAIR], inherit_distance='cka'), 'inherit_distance', 'cka', "'l1'"),
        (lambda: IEKD([PAIR], explore_distance='l3'), 'explore_distance', 'l3', "'cka'"),
        (lambda: IEKD([PAIR], reduction='sum'), 'reduction', 'sum', "'mean', 'size_invariant'"),
        (
            lambda: IEKD([PAIR], inherit_weight=0, explore_target='student'),
            'explore_target',
            'student',
            'inherit_weight=0',
        ),
        (lambda: IEKD([PAIR], knowledge='overhaul'), 'pairs[0].norm', None, 'BatchNorm'),
        (lambda: IEKD([NORM]), 'pairs[0].norm', 'bn', "knowledge='overhaul'"),
        (
            lambda: IEKD([CHECKPOINT], knowledge='attention'),
            'pairs[0].checkpoint',
            'x',
            "knowledge='factor'",
        ),
        (
            lambda: IEKD([PAIR], knowledge='attention', encoder=dict(norm=None)),
            'encoder',
            dict(norm=None),
            "knowledge='factor'",
        ),
        (
            lambda: IEKD([NORM], knowledge='overhaul', paraphraser=dict(norm=None)),
            'paraphraser',
            dict(norm=None),
            "knowledge='factor'",
        ),
        (lambda: IEKD([PAIR], split='random'), 'split', 'random', 'must be a dict'),
        (lambda: build(split=dict(ratio=1.0)), 'split.ratio', 1.0, 'between 0 and 1'),
        (lambda: build(split=dict(ratio=0.01)), 'split.ratio', 0.01, 'one channel'),
        (lambda: build(student_output(channels=7)), 'split.ratio', 0.5, '7'),
        (lambda: build(split=dict(part=0.5)), 'split.part', 0.5, 'ChannelSplit'),
        (lambda: build(encoder=dict(kernel=1)), 'encoder.kernel', 1, 'FactorEncoder'),
    ],
)
def test_setting_that_does_not_fit_is_refused(
    make: Callable[[], Any], key: str, found: Any, mentions: str
) -> None:
    with raises_config_error(key, found, mentions):
        make()
