"""What stage 1 writes of a paraphraser and stage 2 reads: its weights, and a record of all that is needed to build it again."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkd_plugin.loading.checkpoint import load_file

PARAPHRASER_PREFIX = 'paraphraser.'


class LoadedParaphraser(NamedTuple):
    """A checkpoint of :class:`~mmkd_plugin.models.distillers.ParaphraserTrainer`, read."""

    state: dict[str, Tensor]
    """Of the paraphraser."""
    arguments: dict[str, Any]
    """With which it is built."""
    tap: str
    """The teacher's map that it was trained on."""
    teacher_sha256: bytes
    """Of the file of the teacher that it was trained on."""


def write_record(tap: str, arguments: Mapping[str, Any]) -> Tensor:
    """The tap and the paraphraser's arguments as the bytes of a JSON text, which a state dict can hold."""
    return torch.tensor(
        list(json.dumps(dict(tap=tap, arguments=dict(arguments))).encode()), dtype=torch.uint8
    )


def read_record(record: Tensor) -> tuple[str, dict[str, Any]]:
    """The tap and the arguments of a record.

    Raises:
        ValueError: If it is none.
    """
    read = json.loads(bytes(record.tolist()))
    if not isinstance(read, dict) or read.keys() != {'tap', 'arguments'}:
        raise ValueError(f'record: expected a tap and arguments, got {read!r}')
    return str(read['tap']), dict(read['arguments'])


def load_paraphraser(path: str, key: str) -> LoadedParaphraser:
    """Read the checkpoint of a run of ``ParaphraserTrainer``.

    Args:
        path: Path or URL.
        key: The config key that named it, for messages.

    Raises:
        ValueError: If it cannot be read, or is another model's checkpoint.
    """
    if not isinstance(path, str) or not path:
        raise ValueError(
            f"{key}: expected the path or URL of a paraphraser's checkpoint, got {path!r}"
        )
    content = load_file(path, key).content
    state = content.get('state_dict', content)
    names = list(state) if isinstance(state, Mapping) else []
    weights = {
        n.removeprefix(PARAPHRASER_PREFIX): state[n]
        for n in names
        if str(n).startswith(PARAPHRASER_PREFIX)
    }
    if not weights or not {'record', 'teacher_sha256'} <= set(names):
        raise ValueError(
            f'{key}: expected the checkpoint of a run of mmkd_plugin.ParaphraserTrainer, got {path} with '
            f'{", ".join(map(repr, names[:3])) or "nothing"} …'
        )
    try:
        tap, arguments = read_record(state['record'])
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{key}: expected a readable record of the paraphraser in {path}, got {error}'
        ) from error
    return LoadedParaphraser(
        weights, arguments, tap, bytes(state['teacher_sha256'].flatten().tolist())
    )
