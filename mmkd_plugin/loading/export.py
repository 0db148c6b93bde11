"""The trained networks of a distillation run's checkpoint: list, load and export them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmkd_plugin.errors import ConfigError, one_of
from mmkd_plugin.loading.checkpoint import class_names_of, load_file
from mmkd_plugin.loading.foreign import tensors_of, weights_of
from mmkd_plugin.loading.keys import network_prefixes, part_of, state_of
from mmkd_plugin.loading.restore import load_completely
from mmkd_plugin.loading.run_model import unwrap

_KEPT_META = (
    'dataset_meta',
    'epoch',
    'iter',
    'seed',
    'time',
    'mmengine_version',
    'experiment_name',
)


def trained_networks(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the networks in a run's checkpoint, each with the prefix of its keys.

    Args:
        checkpoint: Its content; see :mod:`mmkd_plugin.loading.keys`.

    Returns:
        ``{'student': 'student.'}``, or an entry for each peer. It is empty for the checkpoint of a
        single network.
    """
    return network_prefixes(state_of(checkpoint))


def student_checkpoint(checkpoint: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """Return the part of a run's checkpoint that its student's own framework would have written.

    Keys have no prefix, and there is no optimizer. Arrays in ``dataset_meta`` are lists, because
    torch does not read numpy arrays by default.

    Args:
        checkpoint: The content of a run's checkpoint.
        name: The peer, if the run trained several.

    Raises:
        ConfigError: If the checkpoint holds no student, or several and ``name`` is None.
    """
    found = trained_networks(checkpoint)
    if not found:
        raise ConfigError(
            'checkpoint',
            "must be that of a distillation run, whose keys begin with 'student.' or 'peers.'",
            found=list(state_of(checkpoint))[:3],
        )
    prefix = found[_chosen(name, found)]
    return dict(meta=_kept_meta(checkpoint), state_dict=part_of(state_of(checkpoint), prefix))


def network_checkpoint(checkpoint: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """Return the weights of a checkpoint without its optimizer, of any run with one network.

    Args:
        checkpoint: The content of a checkpoint: of a distillation run, of an exported student, or
            of a network that was trained alone.
        name: The peer, if the run trained several.

    Raises:
        ConfigError: As :func:`student_checkpoint`, and if there is a ``name`` and one network.

    Example:
        >>> import torch
        >>> content = dict(state_dict=dict(weight=torch.zeros(2)), optimizer={}, meta=dict(epoch=3))
        >>> network_checkpoint(content)
        {'meta': {'epoch': 3}, 'state_dict': {'weight': tensor([0., 0.])}}
    """
    if trained_networks(checkpoint):
        return student_checkpoint(checkpoint, name)
    if name is not None:
        raise ConfigError(
            '--network', 'must be left out, because the checkpoint has one network', found=name
        )
    return dict(meta=_kept_meta(checkpoint), state_dict=state_of(checkpoint))


def load_student(model: nn.Module, path: str, name: str | None = None) -> tuple[str, ...] | None:
    """Load the checkpoint of a run, or of a student alone, into a student or all peers.

    In a model of several peers the networks are loaded, since nothing else takes part in a test.

    Args:
        model: The student, or a model with all peers.
        path: Path of the checkpoint.
        name: The peer that ``model`` is, if the checkpoint holds several.

    Returns:
        The names of the classes that it was trained on, if the checkpoint states them.

    Raises:
        ConfigError: If the file does not restore the model, or if the peers differ.
    """
    content = load_file(path, 'checkpoint').content
    network, saved = unwrap(model), trained_networks(content)
    names = network.state_dict()
    own = network_prefixes(names)
    if not saved:
        state = weights_of(content, names, path, 'checkpoint')
    else:
        state = tensors_of(content, path, 'checkpoint')
    if own:
        if saved.keys() != own.keys():
            names = ', '.join(saved) or 'one network'
            raise ConfigError(
                'checkpoint',
                f'must be that of a run of {", ".join(own)}, not of {names}',
                'Name one network with --network NAME to load it alone.',
                found=path,
            )
        parts = {network.get_submodule(own[each][:-1]): saved[each] for each in own}
    else:
        parts = {network: saved[_chosen(name, saved)] if saved else ''}
    for part, prefix in parts.items():
        load_completely(part, part_of(state, prefix), path, 'checkpoint')
    return class_names_of(content)


def export_student(path: str, out: Path, hashed: bool = False, name: str | None = None) -> Path:
    """Write the student of a distillation checkpoint as a checkpoint of its own framework.

    Args:
        path: The checkpoint. If the run averaged weights (EMA), the averaged ones are in it, and
            they are written.
        out: The file to write.
        hashed: End its name with the first eight digits of its SHA-256, as OpenMMLab's published
            files do.
        name: The peer, if the checkpoint holds several.

    Returns:
        The path of the written file.

    Raises:
        ConfigError: If the checkpoint cannot be read or holds no student.
    """
    student = student_checkpoint(load_file(path, 'checkpoint').content, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    return write(student, out, hashed)


def write(checkpoint: Mapping[str, Any], out: Path, hashed: bool = False) -> Path:
    """Write a checkpoint at once: an interrupted call leaves no half of it under its name.

    Args:
        checkpoint: The content.
        out: The file to write.
        hashed: End its name with the first eight digits of its SHA-256.

    Returns:
        The path of the written file.
    """
    unfinished = out.with_name(f'.{out.name}.tmp')
    torch.save(checkpoint, unfinished)
    if hashed:
        digest = hashlib.sha256(unfinished.read_bytes()).hexdigest()
        out = out.with_name(f'{out.stem}-{digest[:8]}{out.suffix}')
    return unfinished.replace(out)


def _kept_meta(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    meta = checkpoint.get('meta', {})
    return {key: _plain(meta[key]) for key in _KEPT_META if key in meta}


def _plain(value: Any) -> Any:
    """Return a value with numpy arrays and numbers as those of Python."""
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(map(_plain, value))
    return value


def _chosen(name: str | None, found: Mapping[str, str]) -> str:
    """Return a name out of ``found``, which may be left out if there is only one."""
    if name is None and len(found) == 1:
        return next(iter(found))
    return one_of('--network', name, found)
