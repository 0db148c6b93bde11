"""The config key ``peers``: the networks of mutual learning, before anything is built."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mmkd_plugin.errors import ConfigError, one_of

ENSEMBLE = 'ensemble'
#: Begins the names of the optimizers and log keys of a peer's auxiliary modules.
AUXILIARY_PREFIX = 'auxiliary_'
#: Metrics and logs use these names for something else.
_TAKEN = ('mean', ENSEMBLE, 'task')
_KEYS = (
    'name',
    'model',
    'checkpoint',
    'checkpoint_key',
    'checkpoint_prefix',
    'cfg_options',
    'data_preprocessor',
    'methods',
)
_EXAMPLE = "peers=[dict(name='a', model=…), dict(name='b', model=…)]"


def peer_entries(configs: Any) -> list[dict[str, Any]]:
    """Return the list under ``peers`` with each entry as ``dict(name=…, model=…, …)``.

    Args:
        configs: A config path, a model dict, or ``dict(name=…, model=…, …)`` for each peer.

    Raises:
        ConfigError: If there are fewer than two, or if an entry or a name is wrong.

    Example:
        >>> peer_entries(['resnet.py', dict(name='small', model='mobilenet.py')])
        [{'model': 'resnet.py', 'name': 'peer0'}, {'name': 'small', 'model': 'mobilenet.py'}]
    """
    is_list = isinstance(configs, (list, tuple))
    if not is_list or len(configs) < 2:
        raise ConfigError(
            'peers',
            'must be a list of at least two networks',
            f'For example {_EXAMPLE}.',
            found=list(configs) if is_list else configs,
        )
    entries: list[dict[str, Any]] = []
    for index, config in enumerate(configs):
        entry = _entry(f'peers[{index}]', config, f'peer{index}')
        _check_name(f'peers[{index}].name', entry['name'], [other['name'] for other in entries])
        entries.append(entry)
    return entries


def peer_entry(configs: Any, name: str | None, key: str = 'predict') -> dict[str, Any]:
    """Return the entry of one peer, which is the first if ``name`` is None.

    Raises:
        ConfigError: As :func:`peer_entries`, and if no peer has this name.

    Example:
        >>> peer_entry(['resnet.py', 'mobilenet.py'], 'peer1')
        {'model': 'mobilenet.py', 'name': 'peer1'}
    """
    entries = {entry['name']: entry for entry in peer_entries(configs)}
    return entries[next(iter(entries)) if name is None else one_of(key, name, entries)]


def _entry(key: str, config: Any, name: str) -> dict[str, Any]:
    if isinstance(config, (str, Path)) or (isinstance(config, Mapping) and 'type' in config):
        config = dict(model=config)
    if not isinstance(config, Mapping):
        raise ConfigError(
            key,
            'must be a config path, a model dict or dict(name=…, model=…)',
            f'For example {_EXAMPLE}.',
            found=config,
        )
    for unknown in config.keys() - set(_KEYS):
        raise ConfigError(
            f'{key}.{unknown}',
            'is not a key of a peer',
            f'The keys are {", ".join(_KEYS)}.',
            found=config[unknown],
        )
    if 'model' not in config:
        raise ConfigError(f'{key}.model', 'is missing', f'For example {_EXAMPLE}.')
    return {**config, 'name': config.get('name', name)}


def _check_name(key: str, name: Any, earlier: Sequence[str]) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(key, 'must be a word of letters, digits and underscores', found=name)
    if 'loss' in name:
        raise ConfigError(
            key, "must not contain 'loss'", 'MMEngine adds up all log keys with it.', found=name
        )
    if name in _TAKEN or name.startswith(AUXILIARY_PREFIX):
        raise ConfigError(
            key,
            f'must not be {", ".join(_TAKEN)} or begin with {AUXILIARY_PREFIX}',
            'Metrics and logs use these names. Use another one.',
            found=name,
        )
    if hasattr(nn.ModuleDict(), name):
        raise ConfigError(
            key,
            'must not be the name of an attribute of torch.nn.ModuleDict, which holds the peers',
            f'Use another one, such as {name}_net.',
            found=name,
        )
    if name in earlier:
        raise ConfigError(key, 'must be unique', 'An earlier peer has this name.', found=name)
