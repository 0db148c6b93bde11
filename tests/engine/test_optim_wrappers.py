"""From one config to one optimizer a peer."""

from typing import Any

import pytest
from helpers import classification as tiny
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.engine.optim_wrappers import PeerOptimWrappers
from mmkd_plugin.models.distillers import MutualDistiller

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
NAMES = ['a', 'apart_a', 'b', 'apart_b']


@pytest.fixture(scope='module')
def model() -> MutualDistiller:
    return ROOT_MODELS.build(tiny.mutual_config(methods=tiny.inherit_explore()))


def rates(wrappers: Any) -> dict[str, float]:
    return {name: wrapper.param_groups[0]['lr'] for name, wrapper in wrappers.items()}


def test_a_shared_config_is_expanded_and_every_parameter_is_in_one_optimizer(
    model: MutualDistiller,
) -> None:
    wrappers = PeerOptimWrappers(
        dict(optimizer=SGD, accumulative_counts=2, clip_grad=dict(max_norm=3.0))
    )(model)
    assert list(wrappers.keys()) == NAMES
    trained = [
        id(p)
        for wrapper in wrappers.values()
        for group in wrapper.param_groups
        for p in group['params']
    ]
    assert sorted(trained) == sorted(id(p) for p in model.parameters())
    for name, wrapper in wrappers.items():
        assert (type(wrapper), wrapper._accumulative_counts, wrapper.grad_name) == (
            OptimWrapper,
            2,
            f'{name}.grad_norm',
        )
        assert wrapper.clip_grad_kwargs == dict(max_norm=3.0)


def test_changes_by_name_and_for_all_that_is_apart(model: MutualDistiller) -> None:
    changes = dict(
        peers=dict(b=dict(optimizer=dict(lr=0.2)), apart_b=dict(optimizer=dict(lr=0.4))),
        apart=dict(optimizer=dict(_delete_=True, type='Adam', lr=0.3)),
    )
    wrappers = PeerOptimWrappers(dict(optimizer=SGD, **changes))(model)
    assert rates(wrappers) == dict(a=0.1, apart_a=0.3, b=0.2, apart_b=0.4)
    assert [type(wrapper.optimizer).__name__ for wrapper in wrappers.values()] == [
        'SGD',
        'Adam',
        'SGD',
        'Adam',
    ]


@pytest.mark.parametrize('form', ['peers', 'names'])
def test_a_config_each(model: MutualDistiller, form: str) -> None:
    each = {
        name: dict(optimizer={**SGD, 'lr': 0.1 * (1 + index)}) for index, name in enumerate(NAMES)
    }
    wrappers = PeerOptimWrappers(
        dict(peers=each) if form == 'peers' else dict(each, type='OptimWrapper')
    )(model)
    assert rates(wrappers) == pytest.approx(dict(zip(NAMES, (0.1, 0.2, 0.3, 0.4), strict=True)))


def test_parameter_wise_settings_reach_the_lessons_too(model: MutualDistiller) -> None:
    paramwise = dict(custom_keys={'encoders': dict(lr_mult=0.5)}, norm_decay_mult=0.0)
    wrappers = PeerOptimWrappers(dict(optimizer=SGD), paramwise)(model)
    found = {
        id(p): group
        for wrapper in wrappers.values()
        for group in wrapper.param_groups
        for p in group['params']
    }
    for name, parameter in model.named_parameters():
        group = found[id(parameter)]
        assert group['lr'] == pytest.approx(0.05 if 'encoders' in name else 0.1), name
        if name.startswith('peer_') and '.bn1.' in name:
            assert group['weight_decay'] == 0.0, name
