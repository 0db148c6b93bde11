"""Names of methods and peers: what torch and MMEngine reserve, and what only looks reserved."""

from pathlib import Path
from typing import Any

import pytest
from helpers import classification as tiny
from helpers.checkpoints import state_of
from helpers.errors import raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from mmkd_plugin.loading.keys import network_prefixes
from mmkd_plugin.models.distillers.method_set import MethodSet
from mmkd_plugin.models.distillers.peer import AuxiliaryModules, PeerMethods

METHOD = dict(type='SoftTarget')
#: Every attribute of torch's dict of modules, its instance attributes among them.
ATTRIBUTES = sorted(
    name for name in dir(nn.ModuleDict()) if name.isidentifier() and 'loss' not in name
)
#: Names that MMEngine, torch or this package use elsewhere, and Python's own words.
FREE = (
    'self',
    'class',
    'None',
    'name',
    'key',
    'network',
    'auxiliary',
    'record',
    'peers',
    'student',
)


@pytest.mark.parametrize('name', ATTRIBUTES)
def test_attribute_of_a_module_dict_as_a_name_is_refused(name: str) -> None:
    with raises_config_error(f'methods.{name}', name, 'reserved', fix='another name'):
        MethodSet({name: METHOD})
    peers = [{**entry, 'name': name} for entry in tiny.mutual_config()['peers'][:1]]
    with raises_config_error('peers[0].name', name, 'ModuleDict', fix=f'{name}_net'):
        ROOT_MODELS.build(tiny.mutual_config(peers=[*peers, tiny.classifier()]))


@pytest.mark.parametrize('kind', [MethodSet, PeerMethods])
def test_attribute_of_a_method_set_as_a_method_is_refused(kind: type[MethodSet]) -> None:
    """The sets have attributes of their own, such as ``named``."""
    own = sorted(set(dir(kind(dict(kd=METHOD)))) - {*ATTRIBUTES, 'kd'})
    assert 'named' in own
    for name in own:
        with raises_config_error(f'methods.{name}', name, 'reserved'):
            kind({name: METHOD})


def test_auxiliary_modules_reserve_no_name_that_methods_do_not() -> None:
    """They have the names of their methods."""
    assert set(dir(AuxiliaryModules())) <= set(dir(PeerMethods(dict(kd=METHOD))))


@pytest.mark.parametrize('name', FREE)
def test_method_with_a_name_that_only_looks_reserved_trains(name: str, tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods={name: METHOD})
    assert f'{name}.loss_kd' in tiny.losses_of(model)


@pytest.mark.parametrize('name', [*FREE, 'methods'])
def test_peer_with_a_name_that_only_looks_reserved_trains_and_is_saved(
    name: str, tmp_path: Path
) -> None:
    config: dict[str, Any] = tiny.mutual_config(name, 'other', methods=tiny.inherit_explore())
    run = tiny.runner(config, tmp_path, iters=1, optim_wrapper=tiny.peer_optimizers())
    run.train()
    assert list(run.optim_wrapper.keys()) == [
        name,
        f'auxiliary_{name}',
        'other',
        'auxiliary_other',
    ]
    state = state_of(tmp_path / 'iter_1.pth')
    assert network_prefixes(state) == {one: f'peers.{one}.network.' for one in (name, 'other')}
