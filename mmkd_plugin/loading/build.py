"""Build a network from a dict, a config file or ``pkg::path``, as its own framework would."""

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import mmengine.registry
from mmengine import Config, ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope, Registry
from torch import nn

from mmkd_plugin.errors import ConfigError, config_key, nearest_names
from mmkd_plugin.installed import has
from mmkd_plugin.loading.config_files import read_config
from mmkd_plugin.loading.peer_entries import peer_entry
from mmkd_plugin.loading.run_model import kind_of
from mmkd_plugin.registry import SCOPE

HOSTS = ('mmpretrain', 'mmdet')
_SOURCE = '_read_from'
_UNREGISTERED = re.compile(r'^(\S+) is not in the (\w+)::([\w ]+) registry')


def network_config(
    model: Any,
    key: str,
    cfg_options: Mapping[str, Any] | None = None,
    data_preprocessor: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Return the model dict that builds a network, whatever the scope of the run around it.

    Args:
        model: A model dict, the path of a config file, or ``'pkg::path'`` inside an installed
            OpenMMLab package. A distillation config stands for its student, one of mutual learning
            for the peer that its ``predict`` names.
        key: The config key that ``model`` came from, for messages.
        cfg_options: Changes, as on OpenMMLab's command lines: ``{'model.backbone.depth': 18}``.
        data_preprocessor: Used if the config has none of its own.

    Returns:
        The model dict with its ``data_preprocessor``. Its key ``_scope_`` names the package in
        which its types are looked up.

    Raises:
        ConfigError: If the file, the package, or ``type`` is missing.
    """
    source = str(model) if isinstance(model, (str, Path)) else ''
    if source:
        config = read_config(source, key)
    elif isinstance(model, Mapping):
        config = Config(dict(model=_copied(model)))  # frameworks write into what they build from
    else:
        raise ConfigError(key, "must be a model dict, a config path or 'pkg::path'", found=model)
    if cfg_options:
        config.merge_from_dict(_copied(cfg_options))  # merging takes _delete_ out of them
    network = config.get('model')
    if not isinstance(network, Mapping) or 'type' not in network:
        where = f' in {source}' if source else ''
        raise ConfigError(key, f'must be a model dict with a "type"{where}', found=network)
    own_preprocessor = (
        network.get('data_preprocessor') or config.get('data_preprocessor') or data_preprocessor
    )
    kind = kind_of(network)
    if kind == 'student':
        network = student_config(
            network['student'], f'{key}.student', network.get('cfg_options'), own_preprocessor
        )
    elif kind == 'mutual':
        with config_key(key):
            entry = peer_entry(network.get('peers'), network.get('predict'))
        network = network_config(
            entry['model'], f'{key}.peers', entry.get('cfg_options'), own_preprocessor
        )
        if entry.get('data_preprocessor') is not None:
            network.data_preprocessor = ConfigDict(entry['data_preprocessor'])
    else:
        network = ConfigDict(network)
        if own_preprocessor is not None:
            network.data_preprocessor = ConfigDict(own_preprocessor)
        network.setdefault('_scope_', _scope(network['type'], config.get('default_scope')))
        if network['_scope_'] is None:
            network.pop('_scope_')
    if source and _SOURCE not in vars(network):
        object.__setattr__(network, _SOURCE, source)  # beside the dict, not in it
    return network


def student_config(
    student: Any,
    key: str,
    cfg_options: Mapping[str, Any] | None = None,
    data_preprocessor: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Return :func:`network_config` of the student of a run.

    If ``student`` is a path, the run's ``data_preprocessor`` replaces its own, because the batches
    are made for the run. A dict stands in the run's config and keeps its own.
    """
    network = network_config(student, key, cfg_options, data_preprocessor)
    if not isinstance(student, Mapping) and data_preprocessor is not None:
        network.data_preprocessor = ConfigDict(data_preprocessor)
    return network


def build_network(config: ConfigDict, key: str) -> nn.Module:
    """Build the network of a config from :func:`network_config`.

    Raises:
        ConfigError: If its framework refuses the config. The message has the framework's words, or
            the nearest registered names if a ``type`` is unknown.
    """
    try:
        network: nn.Module = ROOT_MODELS.build(config)
    except ConfigError as error:
        raise error.inside(key) from error.__cause__
    except FileNotFoundError as error:
        raise _missing_file(config, key, error) from error
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        words = ' '.join(str(error.args[0] if error.args else error).split())
        if unregistered := _UNREGISTERED.match(words):
            raise _unregistered(config, key, *unregistered.groups()) from error
        raise ConfigError(
            key, f'cannot be built by its framework: {words}', found=config.get('type')
        ) from error
    return network


def _copied(config: Any) -> Any:
    """Return a copy of a config's dicts and lists; modules inside stay the same objects."""
    if isinstance(config, Mapping):
        return {key: _copied(value) for key, value in config.items()}
    return type(config)(map(_copied, config)) if type(config) in (list, tuple) else config


def _unregistered(config: Any, key: str, name: str, scope: str, registry: str) -> ConfigError:
    """Return the error for a ``type`` that its framework does not have."""
    scopes = [name.partition('.')[0] if '.' in name else scope]  # the name can have a prefix
    if scopes == ['mmengine']:  # no framework has it
        scopes += HOSTS
    known: set[str] = set()
    for root in vars(mmengine.registry).values():
        if isinstance(root, Registry) and root.name == registry:
            found = [root, *(child for child in root.children.values() if child.scope in scopes)]
            known = known.union(*(one.module_dict for one in found))
    named = (path for path in _keys_of(config, name) if path.rpartition('.')[2] == 'type')
    inner = next(named, 'type')
    return ConfigError(
        f'{key}.{inner}',
        f'is not registered in {", ".join(scopes)}',
        f'The nearest names are {nearest_names(name.rpartition(".")[2], known)}.',
        found=name,
    )


def _missing_file(config: ConfigDict, key: str, error: FileNotFoundError) -> ConfigError:
    source = vars(config).get(_SOURCE, '')
    file = error.filename or str(error)
    inner = next(_keys_of(config, file), '')
    return ConfigError(
        f'{key}.{inner}' if inner else key,
        f'needs a file that is not there{f" ({source})" if source else ""}',
        f'Relative paths begin at {Path.cwd()}. Set another one with '
        f"cfg_options={{'model.{inner or '…'}': '/path'}}.",
        found=file,
    )


def _keys_of(config: Any, value: str, path: str = '') -> Iterator[str]:
    """Yield the paths of the keys with a value."""
    pairs = [*config.items()] if isinstance(config, Mapping) else []
    if isinstance(config, (list, tuple)):
        pairs = [*enumerate(config)]
    for inner, one in pairs:
        if isinstance(one, str) and one == value:
            yield f'{path}{inner}'
        yield from _keys_of(one, value, f'{path}{inner}.')


def _scope(name: Any, default_scope: str | None) -> str | None:
    """Return the package whose registries resolve the types of a network."""
    if not isinstance(name, str):
        return default_scope
    prefix = name.rpartition('.')[0]
    if prefix and '.' not in prefix and prefix != SCOPE:
        return prefix
    current = DefaultScope.get_current_instance()
    candidates = [default_scope, None if current is None else current.scope_name, *HOSTS]
    for scope in candidates:
        if scope is not None and scope != SCOPE and has(scope) and _has_model(scope, name):
            return scope
    return default_scope


def _has_model(scope: str, name: str) -> bool:
    import_module(f'{scope}.registry')
    registry = ROOT_MODELS.children.get(scope)
    return registry is not None and registry.get(name) is not None
