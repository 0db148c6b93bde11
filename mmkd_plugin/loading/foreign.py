"""Find the weights of one network in a checkpoint that any training code wrote."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor

from mmkd_plugin.errors import ConfigError, one_of
from mmkd_plugin.loading.keys import STUDENT_PREFIX, network_prefixes, part_of, without_prefix

_WRAPPER = 'module.'
_COMPILED = '_orig_mod.'
_DEEPEST = 3


def weights_of(
    content: Mapping[str, Any],
    own: Mapping[str, Tensor],
    path: str,
    key: str,
    checkpoint_key: str | None = None,
    checkpoint_prefix: str | None = None,
) -> Mapping[str, Tensor]:
    """Return the state dict of a network out of a checkpoint, if only one can be meant.

    1. The dict of tensors: that under ``state_dict``, or the content itself, or else the only one
       with keys of the network, under any name, such as ``model``.
    2. The prefixes of wrappers, ``module.`` and ``_orig_mod.``, are cut off.
    3. If no key is one of the network, the only prefix with its keys is cut off, such as
       ``architecture.``. Among several prefixes, it is the only one that fits completely.

    A distillation run's own checkpoint keeps its prefixes, since its student is exported first.

    Args:
        content: The content of the file.
        own: The state dict of the network.
        path: Path of the file, for messages.
        key: The config key of the path.
        checkpoint_key: Path of the dict of tensors in the file, such as ``'ema'``.
        checkpoint_prefix: Prefix of the network's keys, such as ``'architecture.'``.

    Raises:
        ConfigError: If there are no tensors, or if several dicts or prefixes can be meant.

    Example:
        >>> import torch
        >>> file = {'model': {'module.weight': torch.zeros(2)}, 'epoch': 3}
        >>> list(weights_of(file, {'weight': torch.ones(2)}, 'a.pth', 'checkpoint'))
        ['weight']
    """
    state = _entry(content, own, path, key, checkpoint_key)
    if not any(_COMPILED in name for name in own):
        while any(_COMPILED in name for name in state):
            state = _renamed(state, _COMPILED)
    state = without_prefix(state, _WRAPPER)
    if checkpoint_prefix is not None:
        prefix = checkpoint_prefix.rstrip('.') + '.'
        found = {one: None for name in state for one in _prefixes(name)}
        one_of(f'{key}_prefix', prefix, found)
        return part_of(state, prefix)
    inside = _prefix(state, own, path, key)
    return part_of(state, inside) if inside else state


def tensors_of(content: Mapping[str, Any], path: str, key: str) -> Mapping[str, Tensor]:
    """Return the state dict of a checkpoint of MMEngine.

    Raises:
        ConfigError: If there is none, or if it holds anything but tensors.
    """
    state = content.get('state_dict', content)
    if not _is_state(state):
        raise ConfigError(
            key,
            'must hold a dict of tensors, alone or under "state_dict"',
            f'Its keys are {_listed(content) or "none"}.',
            found=path,
        )
    return state


def _entry(
    content: Mapping[str, Any],
    own: Mapping[str, Tensor],
    path: str,
    key: str,
    checkpoint_key: str | None,
) -> Mapping[str, Tensor]:
    found = dict(_states(content))
    if checkpoint_key is not None:
        inside = [name for name in found if f'{name}.'.startswith(f'{checkpoint_key}.')]
        return found[inside[0] if len(inside) == 1 else one_of(f'{key}_key', checkpoint_key, found)]
    if _is_state(content) or 'state_dict' in content or not found:
        others = [name for name in found if name not in ('', 'state_dict', 'ema_state_dict')]
        if 'state_dict' in content and others:
            print_log(
                f'{path}: the weights under state_dict are loaded, not those under '
                f'{", ".join(others)}',
                logger='current',
            )
        return tensors_of(content, path, key)
    fitting = {name: state for name, state in found.items() if _has_keys_of(state, own)}
    if len(fitting or found) == 1:
        return next(iter((fitting or found).values()))
    raise ConfigError(
        key,
        f'holds several dicts of tensors: {", ".join(fitting or found)}',
        f"Name one: checkpoint_key='{next(iter(fitting or found))}'. Without such a config key, "
        'save that dict alone.',
        found=path,
    )


def _states(
    content: Mapping[str, Any], path: str = '', depth: int = 2
) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield the dicts of tensors in a file, with their paths."""
    if _is_state(content):
        yield path, content
    elif depth:
        for name, value in content.items():
            if isinstance(value, Mapping) and isinstance(name, str):
                yield from _states(value, f'{path}.{name}'.lstrip('.'), depth - 1)


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and all(isinstance(one, Tensor) for one in value.values())
    )


def _has_keys_of(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return any(
        name.removeprefix(prefix) in own for name in state for prefix in ('', *_prefixes(name))
    )


def _prefix(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str, key: str
) -> str | None:
    """Return the prefix of the network's keys in a file, None if there is none to cut off."""
    if any(name in own for name in state):
        return None
    found: dict[str, None] = {}
    for name in state:
        found |= {one: None for one in _prefixes(name) if name.removeprefix(one) in own}
    runs = set(network_prefixes(state).values())
    if not found or set(found) <= runs:
        return None
    complete = [
        one
        for one in found
        if all(
            f'{one}{name}' in state and state[f'{one}{name}'].shape == tensor.shape
            for name, tensor in own.items()
        )
    ]
    choice = complete if len(complete) == 1 else list(found)
    if len(choice) == 1 and choice[0] != STUDENT_PREFIX:
        print_log(f'{path}: the weights under {choice[0]} are loaded', logger='current')
        return choice[0]
    if len(choice) == 1:
        return choice[0]
    raise ConfigError(
        key,
        f'holds several networks, under the prefixes {", ".join(found)}',
        f"Name one: checkpoint_prefix='{choice[0]}'. Without such a config key, save its part "
        'alone.',
        found=path,
    )


def _prefixes(name: str) -> list[str]:
    parts = name.split('.')[:-1]
    return ['.'.join(parts[:count]) + '.' for count in range(1, min(len(parts), _DEEPEST) + 1)]


def _renamed(state: Mapping[str, Tensor], part: str) -> Mapping[str, Tensor]:
    """Return a state dict without ``part``, wherever it is in a key."""
    prefixes = {name[: name.index(part) + len(part)] for name in state if part in name}
    cut = state
    for prefix in sorted(prefixes, key=len, reverse=True):
        inner = part_of(cut, prefix)
        kept = type(inner)((k, v) for k, v in cut.items() if not k.startswith(prefix))
        cut = kept | {prefix.removesuffix(part) + k: v for k, v in inner.items()}
    return cut


def _listed(names: Mapping[str, Any]) -> str:
    shown = [repr(name) for name in names]
    more = f', … {len(shown) - 3} more' if len(shown) > 3 else ''
    return ', '.join(shown[:3]) + more
