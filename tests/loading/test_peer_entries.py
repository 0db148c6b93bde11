from pathlib import Path
from typing import Any

import pytest
from helpers.errors import raises_config_error

from mmkd_plugin.loading.peer_entries import peer_entries, peer_entry

A = dict(name='a', model='a.py')


def test_paths_model_dicts_and_entries_are_accepted_and_named() -> None:
    entries = peer_entries(['a.py', Path('b.py'), dict(type='Net'), dict(A, checkpoint='c.pth')])
    assert [entry['name'] for entry in entries] == ['peer0', 'peer1', 'peer2', 'a']
    assert entries[1]['model'] == Path('b.py')
    assert entries[2]['model'] == dict(type='Net')
    assert entries[3]['checkpoint'] == 'c.pth'


def test_the_given_entries_stay_as_they_are() -> None:
    given = [dict(model='a.py'), dict(model='b.py')]
    peer_entries(given)
    assert given == [dict(model='a.py'), dict(model='b.py')]


@pytest.mark.parametrize(
    ('second', 'key', 'found'),
    [
        (3, 'peers[1]', 3),
        (dict(name='b', model='b.py', weight=1), 'peers[1].weight', 1),
        (dict(name='a b', model='b.py'), 'peers[1].name', 'a b'),
        (dict(name='', model='b.py'), 'peers[1].name', ''),
        (dict(name=3, model='b.py'), 'peers[1].name', 3),
        (dict(name='loss_net', model='b.py'), 'peers[1].name', 'loss_net'),
        (dict(name='mean', model='b.py'), 'peers[1].name', 'mean'),
        (dict(name='ensemble', model='b.py'), 'peers[1].name', 'ensemble'),
        (dict(name='auxiliary_a', model='b.py'), 'peers[1].name', 'auxiliary_a'),
        (dict(name='a', model='b.py'), 'peers[1].name', 'a'),
    ],
)
def test_a_wrong_entry_is_refused_with_its_key(second: Any, key: str, found: Any) -> None:
    with raises_config_error(key, found):
        peer_entries([A, second])


@pytest.mark.parametrize('name', ['keys', 'train', 'training', 'half', 'float', 'cpu', '_modules'])
def test_a_name_that_a_module_dict_cannot_hold_is_refused(name: str) -> None:
    with raises_config_error('peers[1].name', name, 'torch.nn.ModuleDict', fix=f'{name}_net'):
        peer_entries([A, dict(name=name, model='b.py')])


@pytest.mark.parametrize('peers', [None, 'a.py', [], ['a.py'], A])
def test_fewer_than_two_networks_are_refused(peers: Any) -> None:
    with raises_config_error('peers', peers, 'two networks', fix="dict(name='a', model=…)"):
        peer_entries(peers)


def test_an_entry_without_a_model_is_refused() -> None:
    with raises_config_error('peers[1].model'):
        peer_entries([A, dict(name='b')])


def test_a_peer_is_found_by_name_and_the_first_without() -> None:
    assert peer_entry([A, 'b.py'], 'peer1')['model'] == 'b.py'
    assert peer_entry([A, 'b.py'], None) == A
    with raises_config_error('--network', 'c', "'a', 'peer1'"):
        peer_entry([A, 'b.py'], 'c', '--network')
