"""The names of tensors in the checkpoints of distillation runs, all in one place.

======================================  ======================================================
run of                                  keys
======================================  ======================================================
``Distiller``                           ``student.*``
``MutualDistiller``                     ``peers.<name>.network.*``, ``peers.<name>.methods.*``,
                                        ``peers.<name>.auxiliary.*``
``MutualDistiller``, first edition      ``peer_<name>.*``, ``lessons_<name>.*``, ``apart_<name>.*``
======================================  ======================================================
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

STUDENT_PREFIX = 'student.'
#: A network's prefix and name; the second pattern is that of the first edition.
_PEER_PREFIXES = (re.compile(r'(peers\.([^.]+)\.network\.)'), re.compile(r'(peer_([^.]+)\.)'))


def network_prefixes(keys: Iterable[str]) -> dict[str, str]:
    """Return the names of the networks that a run trained, each with the prefix of its keys.

    Args:
        keys: Keys of a state dict.

    Returns:
        ``{'student': 'student.'}``, or an entry for each peer. It is empty for any other model.

    Example:
        >>> network_prefixes(['peers.a.network.fc.bias', 'peers.b.network.fc.bias'])
        {'a': 'peers.a.network.', 'b': 'peers.b.network.'}
        >>> network_prefixes(['peer_a.fc.bias', 'lessons_a.kd.weight'])  # of the first edition
        {'a': 'peer_a.'}
    """
    keys = list(keys)
    if any(key.startswith(STUDENT_PREFIX) for key in keys):
        return {'student': STUDENT_PREFIX}
    for pattern in _PEER_PREFIXES:
        if found := [match for match in map(pattern.match, keys) if match]:
            return {match[2]: match[1] for match in found}
    return {}


def state_of(checkpoint: Mapping[str, Any]) -> Any:
    """Return the state dict of a checkpoint, which may be the checkpoint itself."""
    return checkpoint.get('state_dict', checkpoint)


def part_of(state: Mapping[str, Tensor], prefix: str) -> 'OrderedDict[str, Tensor]':
    """Return the entries whose keys begin with ``prefix``, without it.

    Example:
        >>> list(part_of({'student.fc.bias': None, 'record.began': None}, 'student.'))
        ['fc.bias']
    """
    part = OrderedDict((key, value) for key, value in state.items() if key.startswith(prefix))
    versions = getattr(state, '_metadata', None)
    if versions is not None:
        part._metadata = OrderedDict(  # type: ignore[attr-defined]
            (name, version) for name, version in versions.items() if f'{name}.'.startswith(prefix)
        )
    return without_prefix(part, prefix)


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> 'OrderedDict[str, Tensor]':
    """Return a state dict in which ``prefix`` is cut off the keys that begin with it.

    The versions of the modules, which torch keeps beside a state dict, come along: some heads of
    MMDetection rename the keys of a checkpoint without versions.

    Example:
        >>> list(without_prefix({'module.fc.bias': None, 'steps': None}, 'module.'))
        ['fc.bias', 'steps']
    """
    cut = OrderedDict((key.removeprefix(prefix), value) for key, value in state.items())
    versions = getattr(state, '_metadata', None)
    if versions is not None:
        cut._metadata = OrderedDict(  # type: ignore[attr-defined]
            (f'{name}.'.removeprefix(prefix).removesuffix('.'), version)
            for name, version in versions.items()
        )
    return cut
