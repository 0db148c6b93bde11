"""A record of what a run began with, saved in its checkpoints and compared when the run resumes."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError

_ABSENT: Any = object()
_MOST_CHARACTERS = 200


class RunRecord(nn.Module):
    """Remember what a run began with, and refuse to resume with anything else.

    The settings are one JSON text in a uint8 buffer. A buffer, and not ``get_extra_state``, because
    MMEngine's ``EMAHook`` copies the ``.data`` of every entry of a state dict. A checkpoint without
    a record passes this check, and torch or MMEngine report the missing key as usual.

    Args:
        settings: Config keys with values that JSON can hold, such as hashes of teachers' files.
        fix: The remedy for a difference, as whole sentences.
        may_differ: Names of keys, at any depth, that are saved but not compared.

    Raises:
        ConfigError: When a checkpoint with other settings is loaded. The error names the first key
            that differs and shows both values.

    Example:
        >>> record = RunRecord({'tap': 'backbone.layer3'}, 'Start a new run.')
        >>> began = record.state_dict()
        >>> RunRecord({'tap': 'backbone.layer2'}, 'Start a new run.').load_state_dict(began)
        Traceback (most recent call last):
        mmkd_plugin.errors.ConfigError: tap: is not 'backbone.layer3', with which the run began \
(found 'backbone.layer2'). Start a new run.
    """

    began: Tensor

    def __init__(
        self, settings: Mapping[str, Any], fix: str, may_differ: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.fix = fix
        self.may_differ = frozenset(may_differ)
        text = json.dumps(dict(settings))
        self.register_buffer('began', torch.tensor(list(text.encode()), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(require_same)  # type: ignore[no-untyped-call]


def read_record(state: Mapping[str, Any], name: str = 'record') -> dict[str, Any] | None:
    """Read the settings in the record called ``name`` out of a state dict.

    Args:
        state: The state dict.
        name: The path of the :class:`RunRecord` in the model; ``''`` for the record itself.

    Returns:
        The settings, or None if there is no such record.

    Raises:
        ConfigError: If the entry is not a record.

    Example:
        >>> read_record(RunRecord({'tap': 'neck'}, '').state_dict(prefix='record.'))
        {'tap': 'neck'}
    """
    key = f'{name}.began' if name else 'began'
    saved = state.get(key)
    if saved is None:
        return None
    try:
        if saved.dtype != torch.uint8:
            raise TypeError(f'its type is {saved.dtype}, not torch.uint8')
        settings = json.loads(bytes(saved.flatten().tolist()))
        if not isinstance(settings, dict):
            raise TypeError(f'it holds {_short(settings)}')
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            'checkpoint',
            f'has no readable record under {key!r}: {error}',
            'Give a checkpoint that a distillation run wrote.',
        ) from error
    return settings


def require_same(module: 'RunRecord', state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Compare the record of a state dict, under ``prefix``, with that of a module.

    Raises:
        ConfigError: If they differ.
    """
    settings = read_record(state, prefix.removesuffix('.'))
    if settings is None:  # a checkpoint of another kind of run
        return
    present = read_record({'began': module.began}, '')
    difference = _first_difference('', settings, present, module.may_differ)
    if difference is not None:
        key, saved, found = difference
        if saved is _ABSENT:
            problem = 'is new: the run began without it'
        else:
            problem = f'is not {_short(saved)}, with which the run began'
        if found is _ABSENT:
            raise ConfigError(key, f'is missing: the run began with {_short(saved)}', module.fix)
        raise ConfigError(key, problem, module.fix, found=found)
    # Equal settings can be texts of other lengths (1 and 1.0), which torch would refuse to copy.
    state[f'{prefix}began'] = module.began.detach().clone()


def _first_difference(
    key: str, saved: Any, found: Any, may_differ: Collection[str]
) -> tuple[str, Any, Any] | None:
    """Return the first config key whose values differ, with both values."""
    if isinstance(saved, dict) and isinstance(found, dict):
        pairs = [
            (f'{key}.{name}'.lstrip('.'), saved.get(name, _ABSENT), found.get(name, _ABSENT))
            for name in {**saved, **found}
            if name not in may_differ
        ]
    elif isinstance(saved, list) and isinstance(found, list) and len(saved) == len(found):
        pairs = [(f'{key}[{i}]', *pair) for i, pair in enumerate(zip(saved, found, strict=True))]
    else:
        same = saved == found or (saved != saved and found != found)  # NaN is not equal to itself
        return None if same else (key, saved, found)
    differences = (_first_difference(*pair, may_differ) for pair in pairs)
    return next((one for one in differences if one is not None), None)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f'{text[:_MOST_CHARACTERS]} …'
