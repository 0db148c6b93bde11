"""From what a config says of a network (a dict, a config file, ``pkg::path``) to the network, resolved as its host would."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from torch import nn

from mmkd_plugin.installed import has
from mmkd_plugin.loading.peer_entries import peer_entry
from mmkd_plugin.registry import SCOPE

HOSTS = ('mmpretrain', 'mmdet')


def network_config(
    model: Any,
    key: str,
    cfg_options: Mapping[str, Any] | None = None,
    data_preprocessor: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """The model dict that builds a network, whatever the scope of the run around it.

    Args:
        model: A model dict, the path of a config file, or ``'pkg::path'`` inside an installed OpenMMLab package. A distillation
            config stands for its student, that of mutual learning for the peer that its ``predict`` names.
        key: The config key it came from, for messages.
        cfg_options: Changes to make in it, as on OpenMMLab's command lines: ``{'model.backbone.depth': 18}``.
        data_preprocessor: Used when the config has none of its own.

    Returns:
        The model dict with its ``data_preprocessor``, and under ``_scope_`` the package in which its types are looked up.

    Raises:
        ValueError: If the file, the package, or ``type`` is missing.
    """
    if isinstance(model, (str, Path)):
        config = _read_config(str(model), key)
    elif isinstance(model, Mapping):
        config = Config(dict(model=_copied(model)))  # frameworks write into what they build from
    else:
        raise ValueError(
            f"{key}: expected a model dict, a config path or 'pkg::path', got {type(model).__name__}"
        )
    if cfg_options:
        config.merge_from_dict(_copied(cfg_options))  # merging takes _delete_ out of them
    network = config.get('model')
    if not isinstance(network, Mapping) or 'type' not in network:
        raise ValueError(f'{key}: expected a model with a "type", got {network!r}')
    own_preprocessor = (
        network.get('data_preprocessor') or config.get('data_preprocessor') or data_preprocessor
    )
    if str(network['type']) in (f'{SCOPE}.Distiller', 'Distiller'):
        return student_config(
            network['student'], f'{key}.student', network.get('cfg_options'), own_preprocessor
        )
    if str(network['type']) in (f'{SCOPE}.MutualDistiller', 'MutualDistiller'):
        entry = peer_entry(network.get('peers'), network.get('predict'), f'{key}.predict')
        chosen = network_config(
            entry['model'], f'{key}.peers', entry.get('cfg_options'), own_preprocessor
        )
        if entry.get('data_preprocessor') is not None:
            chosen.data_preprocessor = ConfigDict(entry['data_preprocessor'])
        return chosen
    network = ConfigDict(network)
    if own_preprocessor is not None:
        network.data_preprocessor = ConfigDict(own_preprocessor)
    network.setdefault('_scope_', _scope(network['type'], config.get('default_scope')))
    if network['_scope_'] is None:
        network.pop('_scope_')
    return network


def student_config(
    student: Any,
    key: str,
    cfg_options: Mapping[str, Any] | None = None,
    data_preprocessor: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """As :func:`network_config`, of the student of a run: where a path names it, the run's preprocessor goes before its own.

    The run's data are made for the run's; a dict of the config stands beside them and may have its own.
    """
    network = network_config(student, key, cfg_options, data_preprocessor)
    if not isinstance(student, Mapping) and data_preprocessor is not None:
        network.data_preprocessor = ConfigDict(data_preprocessor)
    return network


def build_network(config: ConfigDict, key: str) -> nn.Module:
    """Build what :func:`network_config` gave; a failure names the config key.

    Raises:
        ValueError: If the host refuses the config; its own words are kept.
    """
    try:
        network: nn.Module = ROOT_MODELS.build(config)
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        message = error.args[0] if error.args else error
        raise ValueError(
            f'{key}: expected a model that its framework can build, got {message}'
        ) from error
    return network


def _copied(config: Any) -> Any:
    """A copy of a config's dicts and lists; a module that somebody put into it stays the same one."""
    if isinstance(config, Mapping):
        return {key: _copied(value) for key, value in config.items()}
    return type(config)(map(_copied, config)) if type(config) in (list, tuple) else config


def _read_config(path: str, key: str) -> Config:
    package, separator, inner = path.partition('::')
    if separator:
        if not has(package):  # the hub would install it from the network, unasked
            raise ValueError(
                f'{key}: expected an installed package before "::", got {path!r}; pip install {package}'
            )
        try:
            return get_config(path)
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise ValueError(
                f'{key}: expected a config of {package}, found no {inner!r} in it ({error})'
            ) from error
    if not Path(path).is_file():
        raise ValueError(f'{key}: expected a config file, found none at {path}')
    return Config.fromfile(path)


def _scope(name: Any, default_scope: str | None) -> str | None:
    """The package in which the types of a network are looked up."""
    if not isinstance(name, str):
        return default_scope
    prefix = name.rpartition('.')[0]
    if prefix and '.' not in prefix and prefix != SCOPE:
        return prefix
    current = DefaultScope.get_current_instance()
    candidates = [default_scope, None if current is None else current.scope_name, *HOSTS]
    for scope in candidates:
        if scope is not None and scope != SCOPE and has(scope) and _knows(scope, name):
            return scope
    return default_scope


def _knows(scope: str, name: str) -> bool:
    import_module(f'{scope}.registry')
    registry = ROOT_MODELS.children.get(scope)
    return registry is not None and registry.get(name) is not None
