"""What a config says of networks that teach each other: the key ``peers``, before anything is built."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ENSEMBLE = 'ensemble'
APART_PREFIX = 'apart_'
#: What metrics and logs call something else.
_TAKEN = ('mean', ENSEMBLE, 'task')
_KEYS = {'name', 'model', 'checkpoint', 'cfg_options', 'data_preprocessor', 'methods'}


def peer_entries(configs: Any) -> list[dict[str, Any]]:
    """The list under ``peers``, each entry as ``dict(name=…, model=…, …)``.

    Raises:
        ValueError: If there are fewer than two, or an entry or a name is wrong.
    """
    if not isinstance(configs, (list, tuple)) or len(configs) < 2:
        raise ValueError(f'peers: expected a list of at least two networks, got {configs!r}')
    entries: list[dict[str, Any]] = []
    for index, config in enumerate(configs):
        if isinstance(config, (str, Path)) or (isinstance(config, Mapping) and 'type' in config):
            config = dict(model=config)
        if not isinstance(config, Mapping) or 'model' not in config or not config.keys() <= _KEYS:
            raise ValueError(
                f'peers[{index}]: expected a config path, a model dict, or dict(name=…, model=…) and of {sorted(_KEYS)}, got {config!r}'
            )
        name = config.get('name', f'peer{index}')
        _check_name(f'peers[{index}].name', name, [entry['name'] for entry in entries])
        entries.append({**config, 'name': name})
    return entries


def peer_entry(configs: Any, name: str | None, key: str = 'predict') -> dict[str, Any]:
    """The entry of one peer; of the first, if none is named.

    Raises:
        ValueError: As :func:`peer_entries`, and if no peer has this name.
    """
    entries = {entry['name']: entry for entry in peer_entries(configs)}
    if name is not None and name not in entries:
        raise ValueError(f'{key}: expected one of {list(entries)}, got {name!r}')
    return entries[name or next(iter(entries))]


def _check_name(key: str, name: Any, earlier: Sequence[str]) -> None:
    if not isinstance(name, str) or not name.isidentifier() or 'loss' in name:
        raise ValueError(
            f"{key}: expected a name that is a word, without 'loss' (MMEngine sums every log key that has it), got {name!r}"
        )
    if name in _TAKEN or name.startswith(APART_PREFIX):
        raise ValueError(
            f'{key}: expected a name other than {", ".join(_TAKEN)} and {APART_PREFIX}…, got {name!r}'
        )
    if name in earlier:
        raise ValueError(f'{key}: expected a name of its own, got {name!r} again')
