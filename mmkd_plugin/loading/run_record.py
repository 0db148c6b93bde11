"""A record of what a run began with: saved in its checkpoints, compared when it resumes."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError


class RunRecord(nn.Module):
    """Remember what a run began with, and refuse to resume with anything else.

    The facts are one JSON text in a uint8 buffer. A buffer, and not ``get_extra_state``, because
    MMEngine's ``EMAHook`` copies the ``.data`` of every entry of a state dict.

    Args:
        facts: Config keys with what JSON can hold, such as the hashes of the teachers' files.
        fix: What a user can do about a difference, as whole sentences.

    Raises:
        ConfigError: When a checkpoint with other facts is loaded. The error names the first key
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

    def __init__(self, facts: Mapping[str, Any], fix: str) -> None:
        super().__init__()
        self.fix = fix
        self.register_buffer('began', _encode(facts))
        self.register_load_state_dict_pre_hook(_require_same)


def read_facts(state: Mapping[str, Any], name: str = 'record') -> dict[str, Any] | None:
    """Read the facts of the record ``name`` out of a state dict; None if there is no such record.

    Raises:
        ValueError: If the entry is not a record.
    """
    saved = state.get(f'{name}.began')
    if saved is None:
        return None
    if not isinstance(saved, Tensor) or saved.dtype != torch.uint8:
        raise ValueError(f'{name}.began is not a record')
    facts = json.loads(bytes(saved.flatten().tolist()))
    if not isinstance(facts, dict):
        raise ValueError(f'{name}.began is not a record')
    return facts


def _require_same(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    facts = read_facts(state, prefix.removesuffix('.'))
    if facts is None or not isinstance(module, RunRecord):  # a checkpoint of another kind of run
        return
    present = json.loads(bytes(module.began.tolist()))
    difference = _first_difference('', facts, present)
    if difference is not None:
        key, saved, found = difference
        problem = f'is not {saved!r}, with which the run began'
        raise ConfigError(key, problem, module.fix, found=found)


def _encode(facts: Mapping[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(dict(facts)).encode()), dtype=torch.uint8)


def _first_difference(key: str, saved: Any, found: Any) -> tuple[str, Any, Any] | None:
    """Return the first config key whose values differ, with both values."""
    if isinstance(saved, dict) and isinstance(found, dict):
        pairs = [
            (f'{key}.{name}'.lstrip('.'), saved.get(name), found.get(name))
            for name in {**saved, **found}
        ]
    elif isinstance(saved, list) and isinstance(found, list) and len(saved) == len(found):
        pairs = [(f'{key}[{i}]', *pair) for i, pair in enumerate(zip(saved, found, strict=True))]
    else:
        return None if saved == found else (key, saved, found)
    differences = (_first_difference(*pair) for pair in pairs)
    return next((one for one in differences if one is not None), None)
