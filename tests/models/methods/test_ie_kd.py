from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.classification import knowledge
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models.losses import exploration_loss, inheritance_loss, linear_cka, overhaul_loss
from mmkd_plugin.models.methods import IEKD
from mmkd_plugin.outputs import Knowledge

PAIR = dict(student='map', teacher='map')
NORMS = dict(bn=(torch.tensor([1.0, 0.5, 2.0, 1.0, 0.1]), torch.tensor([0.0, 0.3, -1.0, 2.0, 0.0])))
ALL = [
    dict(),
    dict(knowledge='attention'),
    dict(knowledge='overhaul', pairs=[dict(PAIR, norm='bn')]),
]


def teacher(size: int = 4, images: int = 3) -> Knowledge:
    return Knowledge(
        None, dict(map=torch.randn(images, 5, size, size), low=torch.randn(images, 3, 8, 8)), NORMS
    )


def student(channels: int = 6, images: int = 3, size: int = 4) -> Knowledge:
    maps = dict(map=torch.rand(images, channels, size, size), low=torch.rand(images, 4, 8, 8))
    return knowledge(**{name: value.requires_grad_() for name, value in maps.items()})


def bound(own: Knowledge | None = None, taught_by: Knowledge | None = None, **options: Any) -> IEKD:
    method = IEKD(**{'pairs': [PAIR], **options})
    method.bind(own or student(), [taught_by or teacher()])
    if method.apart is not None:
        method.apart.eval()  # a paraphraser that is read twice gives one answer
    return method.eval()


def parts_of(method: IEKD, own: Knowledge) -> tuple[Tensor, Tensor]:
    (split,) = method.splits
    return own.features['map'][:, split.inherit_index], own.features['map'][:, split.explore_index]


def test_the_equations_of_factors() -> None:
    own, taught_by = student(), teacher()
    method = bound(own, taught_by, inherit_weight=50.0, explore_weight=20.0)
    inherit, explore = parts_of(method, own)
    assert sorted(
        method.splits[0].inherit_index.tolist() + method.splits[0].explore_index.tolist()
    ) == list(range(6))
    factor = method.apart.paraphrasers[0].encode(taught_by.features['map']).detach()
    encoded = [
        method.compared.encoders[part][0](x)
        for part, x in (('inherit', inherit), ('explore', explore))
    ]
    losses = method(own, [taught_by], None)
    direction = [F.normalize(x.flatten(1), dim=1) for x in (*encoded, factor)]
    torch.testing.assert_close(
        losses['loss_inherit'], 50 * (direction[0] - direction[2]).abs().mean()
    )
    torch.testing.assert_close(
        losses['loss_explore'], -20 * (direction[1] - direction[2]).abs().mean()
    )
    torch.testing.assert_close(
        losses['inherit_cosine'], (direction[0] * direction[2]).sum(dim=1).mean()
    )
    torch.testing.assert_close(
        losses['explore_cosine'], (direction[1] * direction[2]).sum(dim=1).mean()
    )
    rows = [
        torch.stack([x[n, :, i, j] for n in range(3) for i in range(4) for j in range(4)])
        for x in (inherit, explore)
    ]
    torch.testing.assert_close(losses['cka'], linear_cka(*rows))
    assert {name for name in losses if 'loss' in name} == {'loss_inherit', 'loss_explore'}


def test_attention_of_each_part_against_the_teachers() -> None:
    own, taught_by = student(), teacher()
    method = bound(own, taught_by, knowledge='attention', inherit_weight=3.0, explore_weight=2.0)
    maps = [
        F.normalize(x.square().mean(1).flatten(1), dim=1)
        for x in (*parts_of(method, own), taught_by.features['map'])
    ]
    losses = method(own, [taught_by], None)
    torch.testing.assert_close(losses['loss_inherit'], 3 * (maps[0] - maps[2]).square().mean())
    torch.testing.assert_close(losses['loss_explore'], -2 * (maps[1] - maps[2]).square().mean())
    assert not list(method.parameters()), 'attention needs no connector'
    assert method.apart is None


def test_overhaul_inherits_by_its_own_loss_and_explores_within_bounds() -> None:
    own, taught_by = student(), teacher()
    method = bound(
        own,
        taught_by,
        knowledge='overhaul',
        pairs=[dict(PAIR, norm='bn')],
        inherit_weight=3.0,
        explore_weight=2.0,
    )
    assert method.norms_of_teacher(0, 1) == ('bn',)
    inherit, explore = parts_of(method, own)
    target, margin = taught_by.features['map'], method.compared.margins.of(0)
    losses = method(own, [taught_by], None)
    expected = overhaul_loss(method.compared.encoders['inherit'][0](inherit), target, margin)
    torch.testing.assert_close(losses['loss_inherit'], 3 * expected / 1000)
    limited = torch.maximum(target, margin.view(1, -1, 1, 1))
    pushed = exploration_loss(
        method.compared.encoders['explore'][0](explore), limited, 'partial_l2'
    )
    torch.testing.assert_close(losses['loss_explore'], 2 * pushed)


@pytest.mark.parametrize('options', ALL)
def test_gradients_move_both_parts_and_every_connector_and_no_teacher(
    options: dict[str, Any],
) -> None:
    own, taught_by = student(), teacher()
    taught_by.features['map'].requires_grad_()
    method = bound(own, taught_by, **options).train()
    losses = method(own, [taught_by], None)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert (own.features['map'].grad.flatten(2).abs().sum(dim=(0, 2)) > 0).all(), (
        'every channel, of either part'
    )
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for p in method.parameters()
        if p.requires_grad
    )
    assert taught_by.features['map'].grad is None
    assert method.apart is None or all(p.grad is None for p in method.apart.parameters())


def test_the_gradient_of_each_part_is_told_a_step_later() -> None:
    own, taught_by = student(), teacher()
    method = bound(own, taught_by)
    first = method(own, [taught_by], None)
    assert first['inherit_gradient'] == first['explore_gradient'] == 0
    total = sum(value for name, value in first.items() if 'loss' in name)
    total.backward()
    gradient = own.features['map'].grad
    split = method.splits[0]
    inherit, explore = (
        gradient[:, split.inherit_index].norm(),
        gradient[:, split.explore_index].norm(),
    )
    second = method(own, [taught_by], None)
    torch.testing.assert_close(second['inherit_gradient'], inherit)
    torch.testing.assert_close(second['explore_gradient'], explore)
    assert 'gradient_norms' not in method.state_dict()


def test_away_and_toward_are_opposite_and_only_of_the_part_that_explores() -> None:
    own, taught_by = student(), teacher()
    away = bound(own, taught_by)
    toward = bound(own, taught_by, explore_direction='toward')
    toward.load_state_dict(away.state_dict())
    toward.apart.load_state_dict(away.apart.state_dict())
    one, other = away(own, [taught_by], None), toward(own, [taught_by], None)
    torch.testing.assert_close(one['loss_explore'], -other['loss_explore'])
    torch.testing.assert_close(one['loss_inherit'], other['loss_inherit'])


def test_away_from_what_the_student_inherited() -> None:
    own, taught_by = student(), teacher()
    method = bound(own, taught_by, explore_target='student', explore_weight=1.0)
    inherit, explore = parts_of(method, own)
    factors = [
        method.compared.encoders[part][0](x)
        for part, x in (('inherit', inherit), ('explore', explore))
    ]
    losses = method(own, [taught_by], None)
    torch.testing.assert_close(losses['loss_explore'], exploration_loss(factors[1], factors[0]))
    losses['loss_explore'].backward()
    assert all(p.grad is None for p in method.compared.encoders['inherit'].parameters()), 'detached'


@pytest.mark.parametrize(('part', 'other'), [('inherit', 'explore'), ('explore', 'inherit')])
@pytest.mark.parametrize('options', ALL)
def test_a_part_without_weight_builds_nothing(
    part: str, other: str, options: dict[str, Any]
) -> None:
    method = bound(**options, **{f'{other}_weight': 0.0})
    losses = method(student(), [teacher()], None)
    assert {name for name in losses if 'loss' in name} == {f'loss_{part}'}
    assert set(method.compared.encoders) <= {part}
    assert method.active
    assert not IEKD([PAIR], inherit_weight=0.0, explore_weight=0.0).active


def test_distances_and_reduction_are_the_losses_own() -> None:
    own, taught_by = student(), teacher()
    options = dict(
        inherit_distance='cosine', explore_distance='orthogonal', reduction='size_invariant'
    )
    method = bound(own, taught_by, **options, inherit_weight=1.0, explore_weight=1.0)
    factor = method.apart.paraphrasers[0].encode(taught_by.features['map'])
    inherit, explore = (
        method.compared.encoders[part][0](x)
        for part, x in zip(('inherit', 'explore'), parts_of(method, own), strict=True)
    )
    losses = method(own, [taught_by], None)
    torch.testing.assert_close(
        losses['loss_inherit'], inheritance_loss(inherit, factor, 'cosine', 'size_invariant')
    )
    torch.testing.assert_close(
        losses['loss_explore'], exploration_loss(explore, factor, 'orthogonal', 'size_invariant')
    )


@pytest.mark.parametrize('options', ALL)
@pytest.mark.parametrize(('size', 'images'), [(8, 3), (2, 3), (4, 1)])
def test_other_sizes_and_one_image_are_finite(
    options: dict[str, Any], size: int, images: int
) -> None:
    own, taught_by = student(images=images), teacher(size, images)
    losses = bound(own, taught_by, **options)(own, [taught_by], None)
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize('options', ALL)
def test_constant_maps_are_finite(options: dict[str, Any]) -> None:
    own, taught_by = student(), teacher()
    method = bound(own, taught_by, **options).train()
    own.features['map'].data.zero_()
    taught_by.features['map'].zero_()
    losses = method(own, [taught_by], None)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(value.isfinite() for value in losses.values())
    assert own.features['map'].grad.isfinite().all()


def test_several_pairs_add_their_losses_and_average_their_facts() -> None:
    own, taught_by = student(), teacher()
    both = bound(
        own, taught_by, pairs=[PAIR, dict(student='low', teacher='low')], knowledge='attention'
    )
    each = [
        bound(own, taught_by, pairs=[dict(student=tap, teacher=tap)], knowledge='attention')
        for tap in ('map', 'low')
    ]
    for one, split in zip(each, both.splits, strict=True):
        one.splits[0].load_state_dict(split.state_dict())
    total, *single = (method(own, [taught_by], None) for method in (both, *each))
    torch.testing.assert_close(
        total['loss_inherit'], single[0]['loss_inherit'] + single[1]['loss_inherit']
    )
    torch.testing.assert_close(total['cka'], (single[0]['cka'] + single[1]['cka']) / 2)


def test_bfloat16_maps_are_compared_in_float32() -> None:
    own, taught_by = student(), teacher()
    method = bound(own, taught_by)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = method(own, [taught_by], None)
    assert all(value.dtype == torch.float32 for value in losses.values())


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: IEKD([PAIR], inherit_weight=-1.0), r'^inherit_weight: expected a number >= 0, got -1\.0$'),
        (lambda: IEKD([PAIR], explore_weight=-50), r'^explore_weight: expected a number >= 0, got -50$'),
        (lambda: IEKD([PAIR], knowledge='hint'), r"^knowledge: expected one of 'factor', 'attention', 'overhaul', got 'hint'$"),
        (lambda: IEKD([PAIR], explore_target='me'), r"^explore_target: expected one of 'teacher', 'student'"),
        (lambda: IEKD([PAIR], explore_direction='up'), r"^explore_direction: expected one of 'away', 'toward'"),
        (lambda: IEKD([PAIR], inherit_distance='cka'), r"^inherit_distance: expected one of 'l1'"),
        (lambda: IEKD([PAIR], reduction='sum'), r"^reduction: expected one of 'mean', 'size_invariant'"),
        (lambda: IEKD([PAIR], inherit_weight=0, explore_target='student'), r"^explore_target: expected 'teacher' where nothing"),
        (lambda: IEKD([PAIR], knowledge='overhaul'), r'^pairs\[0\]\.norm: expected the path'),
        (lambda: IEKD([dict(PAIR, norm='bn')]), r"^pairs\[0\]\.norm: expected only with knowledge='overhaul', got it with 'factor'$"),
        (
            lambda: IEKD([dict(PAIR, checkpoint='x')], knowledge='attention'),
            r"^pairs\[0\]\.checkpoint: expected only with knowledge='factor', got it with 'attention'$",
        ),
        (lambda: IEKD([PAIR], knowledge='attention', encoder=dict(norm=None)), r"^encoder: expected only with knowledge='factor'"),
        (lambda: bound(split=dict(ratio=1.0)), r'^pairs\[0\]\.student: split\.ratio: expected a number between 0 and 1, got 1\.0$'),
        (lambda: bound(split=dict(ratio=0.01)), r'^pairs\[0\]\.student: split\.ratio: expected at least one channel in each part'),
        (lambda: bound(student(channels=7)), r'^pairs\[0\]\.student: split\.ratio: expected an even number of channels to halve, got 7'),
        (lambda: bound(split=dict(part=0.5)), r'^pairs\[0\]\.student: split: expected other arguments: .*part'),
        (lambda: bound(encoder=dict(kernel=1)), r'^encoder: expected other arguments: .*kernel'),
    ],
)  # fmt: skip
def test_what_does_not_fit(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
