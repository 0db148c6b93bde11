"""The networks of a run's checkpoint, of both editions: listed, loaded, exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import raises_config_error
from torch import Tensor, nn

from mmkd_plugin.loading.export import (
    export_student,
    load_student,
    network_checkpoint,
    student_checkpoint,
    trained_networks,
    write,
)


class Versioned(nn.Linear):
    """A layer that remembers which version of itself a checkpoint states."""

    _version = 7

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: dict[str, Any], *rest: Any
    ) -> None:
        self.loaded_version = metadata.get('version')
        super()._load_from_state_dict(state_dict, prefix, metadata, *rest)


class Peer(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.network = nn.Sequential(Versioned(inputs, 2))
        self.methods = nn.ModuleDict(dict(kd=nn.Linear(2, 2)))


class Peers(nn.Module):
    """Children named as those of a MutualDistiller."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.peers = nn.ModuleDict({name: Peer(index + 1) for index, name in enumerate(names)})


class FirstPeers(nn.Module):
    """As in the first edition."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for index, name in enumerate(names):
            self.add_module(f'peer_{name}', nn.Sequential(Versioned(index + 1, 2)))
            self.add_module(f'lessons_{name}', nn.ModuleDict(dict(kd=nn.Linear(2, 2))))


class WithStudent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(Versioned(1, 2))
        self.methods = nn.ModuleDict(dict(kd=nn.Linear(2, 2)))


def same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(state) == list(other) and all(map(torch.equal, state.values(), other.values()))


def save(content: Any, path: Path) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize(
    ('model', 'networks'),
    [
        (WithStudent(), {'student': 'student.'}),
        (Peers('a', 'b'), {'a': 'peers.a.network.', 'b': 'peers.b.network.'}),
        (FirstPeers('a', 'b_c'), {'a': 'peer_a.', 'b_c': 'peer_b_c.'}),
        (nn.Linear(1, 2), {}),
    ],
)
def test_networks_of_a_checkpoint_are_listed(model: nn.Module, networks: dict[str, str]) -> None:
    assert trained_networks(dict(state_dict=model.state_dict())) == networks
    assert trained_networks(model.state_dict()) == networks


def test_a_students_checkpoint_has_no_prefix_no_optimizer_and_the_meta_of_its_framework() -> None:
    meta = dict(epoch=3, iter=12, dataset_meta=dict(classes=('a',)))
    content = dict(
        meta=dict(**meta, cfg='…', hook_msgs={}),
        optimizer=dict(state={}),
        state_dict={
            'student.a': torch.ones(1),
            'methods.kd.b': torch.ones(2),
            'record.began': torch.ones(2),
        },
    )
    student = student_checkpoint(content)
    assert student.keys() == {'meta', 'state_dict'}
    assert student['meta'] == meta
    assert student['state_dict'].keys() == {'a'}


def test_a_checkpoint_without_a_student_is_refused() -> None:
    with raises_config_error('checkpoint', ['a'], "'student.'", "'peers.'"):
        student_checkpoint(dict(state_dict={'a': torch.ones(1)}))


@pytest.mark.parametrize('kind', [Peers, FirstPeers])
@pytest.mark.parametrize('name', [None, 'c'])
def test_one_of_several_peers_must_be_named(kind: type[nn.Module], name: str | None) -> None:
    with raises_config_error('--network', name, "'a', 'b'"):
        student_checkpoint(kind('a', 'b').state_dict(), name)


@pytest.mark.parametrize('kind', [Peers, FirstPeers])
def test_an_exported_peer_loads_strictly_into_the_stock_model(
    tmp_path: Path, kind: type[nn.Module]
) -> None:
    model = kind('a', 'b')
    path = save(dict(state_dict=model.state_dict()), tmp_path / 'epoch_1.pth')
    out = export_student(path, tmp_path / 'new' / 'b.pth', name='b')
    trained = student_checkpoint(model.state_dict(), 'b')['state_dict']
    for file, name in ((str(out), None), (path, 'b')):
        stock = nn.Sequential(Versioned(2, 2))
        load_student(stock, file, name)
        assert same(stock.state_dict(), trained)
        assert stock[0].loaded_version == 7, 'some heads rename the keys of older versions'
    assert [file.name for file in out.parent.iterdir()] == ['b.pth']


@pytest.mark.parametrize('kind', [Peers, FirstPeers])
def test_a_runs_checkpoint_loads_into_all_peers(tmp_path: Path, kind: type[nn.Module]) -> None:
    trained, model = kind('a', 'b'), Peers('a', 'b')
    meta = dict(dataset_meta=dict(classes=['x', 'y']))
    path = save(dict(meta=meta, state_dict=trained.state_dict()), tmp_path / 'epoch_1.pth')
    assert load_student(model, path) == ('x', 'y')
    for name in 'ab':
        part = student_checkpoint(trained.state_dict(), name)['state_dict']
        assert same(model.peers[name].network.state_dict(), part)


@pytest.mark.parametrize(
    ('trained', 'words'),
    [(Peers('a', 'c'), 'not of a, c'), (nn.Linear(1, 2), 'not of one network')],
)
def test_another_runs_checkpoint_does_not_load_into_all_peers(
    tmp_path: Path, trained: nn.Module, words: str
) -> None:
    path = save(trained.state_dict(), tmp_path / 'a.pth')
    with raises_config_error('checkpoint', path, 'a run of a, b', words, fix='--network'):
        load_student(Peers('a', 'b'), path)


def test_a_peer_of_another_shape_is_an_error_of_a_few_words(tmp_path: Path) -> None:
    path = save(Peers('b', 'a').state_dict(), tmp_path / 'a.pth')
    with raises_config_error('checkpoint', path, '0.weight: [2, 2] in the file, [2, 1] in the'):
        load_student(Peers('a', 'b'), path)


def test_a_hash_in_the_name_leaves_a_file_without_it_alone(tmp_path: Path) -> None:
    path = save(WithStudent().state_dict(), tmp_path / 'epoch_1.pth')
    plain = export_student(path, tmp_path / 'student.pth')
    before = plain.read_bytes(), plain.stat().st_mtime_ns
    hashed = export_student(path, plain, hashed=True)
    assert hashed.name.startswith('student-') and hashed.exists()
    assert (plain.read_bytes(), plain.stat().st_mtime_ns) == before


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_half(content: Any, path: Path) -> None:
        path.write_bytes(b'half')
        raise KeyboardInterrupt

    out = write(dict(a=1), tmp_path / 'a.pth')
    monkeypatch.setattr(torch, 'save', save_half)
    with pytest.raises(KeyboardInterrupt):
        write(dict(a=2), out)
    assert torch.load(out, weights_only=True) == dict(a=1)
    assert list(tmp_path.glob('*.pth')) == [out]


def test_arrays_in_the_meta_of_a_run_are_lists_that_torch_reads(tmp_path: Path) -> None:
    meta = dict(
        epoch=np.int64(3),
        dataset_meta=dict(
            classes=('a',),
            sigmas=np.array([0.5, 1.0]),
            nested=[dict(flip=np.arange(2))],
            names={'x'},
        ),
    )
    student = student_checkpoint(dict(meta=meta, state_dict=WithStudent().state_dict()))
    write(student, tmp_path / 'student.pth')
    assert torch.load(tmp_path / 'student.pth', weights_only=True)['meta'] == dict(
        epoch=3,
        dataset_meta=dict(
            classes=('a',), sigmas=[0.5, 1.0], nested=[dict(flip=[0, 1])], names={'x'}
        ),
    )


def test_a_student_alone_in_a_file_of_other_code_is_loaded(tmp_path: Path) -> None:
    trained, model = nn.Linear(1, 2), nn.Linear(1, 2)
    state = {f'module.{name}': value for name, value in trained.state_dict().items()}
    load_student(model, save(dict(model=state, epoch=3), tmp_path / 'a.pth'))
    assert same(model.state_dict(), trained.state_dict())


def test_network_checkpoint_takes_the_weights_of_every_kind_of_run() -> None:
    """A run with a student, a run of peers, and a plain run: no optimizer, no message hub."""
    plain = dict(weight=torch.ones(2))
    rest = dict(optimizer={}, message_hub={}, meta=dict(seed=np.int64(3), cfg='...'))
    for keys, name in (('', None), ('student.', None), ('peers.a.network.', 'a')):
        state = {f'{keys}{key}': value for key, value in plain.items()}
        found = network_checkpoint(dict(rest, state_dict=state), name)
        assert found == dict(meta=dict(seed=3), state_dict=plain)
    with raises_config_error('--network', 'a', 'one network'):
        network_checkpoint(dict(state_dict=plain), 'a')
