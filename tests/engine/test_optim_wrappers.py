"""One optimizer for each peer: names, configs and parameters."""

from typing import Any

import pytest
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.engine.optim_wrappers import PeerOptimWrappers
from mmkd_plugin.models.distillers import MutualDistiller

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
NAMES = ['a', 'auxiliary_a', 'b', 'auxiliary_b']


@pytest.fixture(scope='module')
def model() -> MutualDistiller:
    return ROOT_MODELS.build(tiny.mutual_config(methods=tiny.inherit_explore()))


def rates(wrappers: Any) -> dict[str, float]:
    """Return the learning rate of each optimizer's first group."""
    return {name: wrapper.param_groups[0]['lr'] for name, wrapper in wrappers.items()}


def test_peer_optim_wrappers_with_a_shared_config_train_every_parameter_once(
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


def test_peer_optim_wrappers_with_peers_and_auxiliary_change_only_those(
    model: MutualDistiller,
) -> None:
    changes = dict(
        peers=dict(b=dict(optimizer=dict(lr=0.2)), auxiliary_b=dict(optimizer=dict(lr=0.4))),
        auxiliary=dict(optimizer=dict(_delete_=True, type='Adam', lr=0.3)),
    )
    wrappers = PeerOptimWrappers(dict(optimizer=SGD, **changes))(model)
    assert rates(wrappers) == dict(a=0.1, auxiliary_a=0.3, b=0.2, auxiliary_b=0.4)
    assert [type(wrapper.optimizer).__name__ for wrapper in wrappers.values()] == [
        'SGD',
        'Adam',
        'SGD',
        'Adam',
    ]


@pytest.mark.parametrize('form', ['peers', 'names'])
def test_peer_optim_wrappers_with_a_config_for_each_name_use_it(
    model: MutualDistiller, form: str
) -> None:
    each = {
        name: dict(optimizer={**SGD, 'lr': 0.1 * (1 + index)}) for index, name in enumerate(NAMES)
    }
    wrappers = PeerOptimWrappers(
        dict(peers=each) if form == 'peers' else dict(each, type='OptimWrapper')
    )(model)
    assert rates(wrappers) == pytest.approx(dict(zip(NAMES, (0.1, 0.2, 0.3, 0.4), strict=True)))


def test_peer_optim_wrappers_with_paramwise_cfg_apply_it_to_methods_too(
    model: MutualDistiller,
) -> None:
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
        if '.network.' in name and '.bn1.' in name:
            assert group['weight_decay'] == 0.0, name
    assert any('.network.' in name and '.bn1.' in name for name, _ in model.named_parameters())


def test_peer_optim_wrappers_with_a_custom_key_apply_it_to_the_network_or_to_the_methods(
    model: MutualDistiller,
) -> None:
    keys = {'backbone.conv1': dict(lr_mult=0.5), 'methods.': dict(lr_mult=0.25)}
    wrapper = PeerOptimWrappers(dict(optimizer=SGD), dict(custom_keys=keys))(model)['a']
    rate = {id(p): group['lr'] for group in wrapper.param_groups for p in group['params']}
    peer = model.all_peers()[0]
    for name, parameter in peer.network.named_parameters():
        wanted = 0.05 if name.startswith('backbone.conv1') else 0.1
        assert rate[id(parameter)] == pytest.approx(wanted), name
    assert all(
        rate[id(parameter)] == pytest.approx(0.025) for parameter in peer.methods.parameters()
    )
    assert sorted(set(rate.values())) == pytest.approx([0.025, 0.05, 0.1])


def test_trained_together_with_methods_that_learn_names_the_network_as_a_plain_run(
    model: MutualDistiller,
) -> None:
    """Network first, then methods: optimizer states are stored by position."""
    parts = model.trained_together()
    assert list(parts) == NAMES
    for peer in model.all_peers():
        network = list(peer.network.named_parameters())
        methods = [(f'methods.{name}', p) for name, p in peer.methods.named_parameters()]
        assert network and methods
        trained = list(parts[peer.name].named_parameters())
        assert [name for name, _ in trained] == [name for name, _ in network + methods]
        assert all(
            one is other for (_, one), (_, other) in zip(trained, network + methods, strict=True)
        )
        assert parts[f'auxiliary_{peer.name}'] is peer.auxiliary


def test_peer_optim_wrappers_put_the_methods_behind_the_network(model: MutualDistiller) -> None:
    wrappers = PeerOptimWrappers(dict(optimizer=SGD))(model)
    for peer in model.all_peers():
        [group] = wrappers[peer.name].param_groups
        expected = [*peer.network.parameters(), *peer.methods.parameters()]
        assert all(one is other for one, other in zip(group['params'], expected, strict=True))


def test_trained_together_without_parameters_in_methods_is_the_network() -> None:
    mutual = ROOT_MODELS.build(tiny.mutual_config())
    assert mutual.trained_together() == {'a': mutual.network('a'), 'b': mutual.network('b')}


def test_peer_optim_wrappers_with_the_old_name_of_auxiliary_raise() -> None:
    changes = dict(optimizer=dict(lr=0.3))
    with raises_config_error(
        'optim_wrapper.apart', changes, 'optim_wrapper.auxiliary', fix='Rename'
    ):
        PeerOptimWrappers(dict(optimizer=SGD, apart=changes))
