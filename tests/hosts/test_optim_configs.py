"""Every parameter of a student has the rates that it has in a plain run, under every stock config.

One config of each kind (constructor and paramwise_cfg) is compared here. All stock configs are, if
the environment has MMKD_EVERY_CONFIG=1; it takes half an hour.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from torch import nn
from torch.overrides import TorchFunctionMode

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.models.distillers.transparent import TransparentModel

#: A config of each kind.
KINDS = Path(__file__).with_name('optimizer_kinds.txt').read_text().split()


#: Weights that a model fetches while it is built are not needed.
_OFFLINE = mock.patch('socket.getaddrinfo', side_effect=OSError('no download in this test'))


def _folder(host: str) -> Path:
    spec = find_spec(host)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / '.mim' / 'configs'


def _read(name: str) -> Any:
    host, _, path = name.partition('::')
    return Config.fromfile(_folder(host) / path)


def _kind(host: str, optim: Mapping[str, Any]) -> str:
    parts = host, optim.get('constructor'), optim.get('paramwise_cfg')
    return json.dumps(parts, default=repr, sort_keys=True)


class _Numbers(TorchFunctionMode):
    """Keep numbers that configs are made of, such as the rates of DropPath, off the meta device."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.linspace:
            kwargs = dict(kwargs or {}, device='cpu')
        return function(*args, **(kwargs or {}))


@contextmanager
def _without_memory() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        with torch.device('meta'), _Numbers(), warnings.catch_warnings(), _OFFLINE:
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(logging.NOTSET)


def _network(config: Any, optim: Mapping[str, Any]) -> nn.Module:
    """Build the model of a config, or modules with the names that the config's rates look for."""
    try:
        with _without_memory():
            return build_network(network_config(config, 'model'), 'model')
    except (ConfigError, RuntimeError, ImportError, OSError, ValueError):  # something is missing
        paramwise = optim.get('paramwise_cfg') or {}
        paths = ['backbone', 'head.norm', *paramwise.get('custom_keys', {})]
        root = nn.Module()
        for path in paths:
            parent = root
            for part in path.strip('.').split('.'):
                if part not in parent._modules:
                    parent.add_module(part, nn.BatchNorm2d(2))
                parent = parent._modules[part]
        return root


def _rates(model: nn.Module, optim: Mapping[str, Any], scope: str) -> dict[int, dict[str, Any]]:
    """Return the options of the optimizer for each parameter."""
    constructor = dict(
        type=optim.get('constructor') or 'DefaultOptimWrapperConstructor',
        optim_wrapper_cfg=dict(type='OptimWrapper', optimizer=dict(optim['optimizer'])),
        paramwise_cfg=optim.get('paramwise_cfg'),
    )
    logging.disable(logging.WARNING)
    try:
        with DefaultScope.overwrite_default_scope(scope):
            wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(constructor)(model)
    finally:
        logging.disable(logging.NOTSET)
    names = 'params', 'param_names'
    return {
        id(parameter): {name: value for name, value in group.items() if name not in names}
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }


class _Wrapper(TransparentModel):
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return self.of_student(name)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError


def _compare(network: nn.Module, optim: Mapping[str, Any], scope: str) -> None:
    plain = _rates(network, optim, scope)
    wrapper = _Wrapper()
    wrapper.student = network
    wrapper.methods = nn.ModuleDict(dict(kd=nn.Linear(2, 2)))
    wrapper.become_transparent()
    distilled = _rates(wrapper, optim, scope)
    own = {id(parameter) for parameter in wrapper.methods.parameters()}
    assert own <= distilled.keys()
    assert {key: value for key, value in distilled.items() if key not in own} == plain


@pytest.mark.parametrize('name', KINDS)
def test_each_kind_of_stock_optimizer_sets_equal_rates(name: str) -> None:
    config = _read(name)
    _compare(
        _network(config.model, config.optim_wrapper), config.optim_wrapper, name.split('::')[0]
    )


@cache
def _trained() -> list[tuple[str, Any]]:
    """Return every stock config that trains one optimizer."""
    found = []
    for host in ('mmpretrain', 'mmdet'):
        for path in sorted(_folder(host).rglob('*.py')):
            name = f'{host}::{path.relative_to(_folder(host)).as_posix()}'
            if '_base_' in path.parts:
                continue
            try:
                config = _read(name)
            except Exception:  # some need packages, or files that are not there
                continue
            if config.get('model') and (config.get('optim_wrapper') or {}).get('optimizer'):
                found.append((name, config))
    return found


@pytest.mark.skipif('MMKD_EVERY_CONFIG' not in os.environ, reason='takes half an hour')
def test_every_stock_config_is_of_a_known_kind_and_sets_equal_rates() -> None:
    known = {_kind(name.split('::')[0], _read(name).optim_wrapper) for name in KINDS}
    done, refused = set(), []
    for name, config in _trained():
        host, optim = name.split('::')[0], config.optim_wrapper
        assert _kind(host, optim) in known, name
        case = _kind(host, optim) + repr(config.model)
        if case in done:
            continue
        done.add(case)
        try:
            _compare(_network(config.model, optim), optim, host)
        except ConfigError as error:
            refused.append(f'{name}: {error}')
        except Exception as error:
            raise AssertionError(name) from error
    print(len(_trained()), 'configs,', len(done), 'of them different; refused:', *refused, sep='\n')
