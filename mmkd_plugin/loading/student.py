"""The student of a distillation config, alone: to test it, to export it, to look into it."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import is_model_wrapper
from torch import nn

from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.checkpoint import (
    PEER_PREFIX,
    classes_of,
    load_file,
    student_checkpoint,
    trained_networks,
)
from mmkd_plugin.loading.peer_entries import peer_entries, peer_entry
from mmkd_plugin.registry import SCOPE


def is_distiller(cfg: Config) -> bool:
    """Whether a config trains one student."""
    return str(cfg.model.get('type')) in (f'{SCOPE}.Distiller', 'Distiller')


def is_mutual(cfg: Config) -> bool:
    """Whether a config trains several networks that learn from each other."""
    return str(cfg.model.get('type')) in (f'{SCOPE}.MutualDistiller', 'MutualDistiller')


def as_student(cfg: Config, name: str | None = None) -> bool:
    """Make a distillation config that of its student, in place; hooks that look at teachers go. Other configs stay.

    Args:
        cfg: The config.
        name: The peer, of several that learn from each other. Without, all of them stay, only whose weights they began with is
            forgotten.

    Returns:
        Whether it was a distillation config.

    Raises:
        ValueError: If no network has this name.
    """
    if not is_distiller(cfg) and not is_mutual(cfg):
        if name is not None:
            raise ValueError(f'--network: expected none for a config of one network, got {name!r}')
        return False
    if is_mutual(cfg) and name is None:
        entries = peer_entries(cfg.model.get('peers'))
        cfg.model.peers = [{**entry, 'checkpoint': None} for entry in entries]
        cfg.test_cfg = {'type': f'{SCOPE}.PeerTestLoop', **(cfg.get('test_cfg') or {})}
    else:
        if is_mutual(cfg):
            cfg.model.predict = peer_entry(cfg.model.get('peers'), name, '--network')['name']
        elif name not in (None, 'student'):
            raise ValueError(
                f"--network: expected 'student' where a single network learns, got {name!r}"
            )
        cfg.model = network_config(
            cfg.model, 'model', data_preprocessor=cfg.get('data_preprocessor')
        )
        for key in ('val_cfg', 'test_cfg'):
            if str((cfg.get(key) or {}).get('type')).startswith(f'{SCOPE}.Peer'):
                cfg[key].pop('type')
    cfg.custom_hooks = [
        hook
        for hook in cfg.get('custom_hooks') or []
        if not str(hook['type']).startswith(f'{SCOPE}.')
    ]
    return True


def network_of(config: str, name: str = 'student') -> nn.Module:
    """Build the student, a teacher or a peer of a config, without any weights; of another config its only model.

    Args:
        config: A config path, or ``'pkg::path'``.
        name: ``'student'`` (of several peers the one that predicts), or a teacher's or peer's name.

    Raises:
        ValueError: If no network has this name.
    """
    if name == 'student':
        return build_network(network_config(config, 'model'), 'model')
    cfg = get_config(config) if '::' in config else Config.fromfile(config)
    if is_mutual(cfg):
        as_student(cfg, name)
        return build_network(cfg.model, name)
    default = cfg.get('data_preprocessor')
    teachers = list(cfg.model.get('teachers', [])) if is_distiller(cfg) else []
    for teacher in teachers:
        if teacher.get('name') == name:
            own = teacher.get('data_preprocessor', default)
            return build_network(
                network_config(teacher['model'], name, teacher.get('cfg_options'), own), name
            )
    names = ['student', *(str(teacher.get('name')) for teacher in teachers)]
    raise ValueError(f'--network: expected one of {names}, got {name!r}')


def load_student(model: nn.Module, path: str, name: str | None = None) -> tuple[str, ...] | None:
    """Load a distillation run's checkpoint, or a student's alone, strictly into the student, or into all peers.

    Args:
        model: The student, or the whole of several peers.
        path: Of the checkpoint.
        name: The peer that ``model`` is, of several in the checkpoint.

    Returns:
        The names of the classes that it was trained on, if the checkpoint says them.

    Raises:
        ValueError: If any key is missing, unexpected or of another shape.
    """
    content = load_file(path, 'checkpoint').content
    network: Any = model.module if is_model_wrapper(model) else model
    state = content.get('state_dict', content)
    if trained_networks(content) and not any(
        key.startswith(PEER_PREFIX) for key in network.state_dict()
    ):
        state = student_checkpoint(content, name)['state_dict']
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f'checkpoint: expected the weights of this student, got {path}: {error}'
        ) from error
    return classes_of(content)


def export_student(path: str, out: Path, hashed: bool = False, name: str | None = None) -> Path:
    """Write the student of a distillation checkpoint as its own framework's checkpoint.

    Args:
        path: The checkpoint. Where a run averages weights (EMA), the averaged ones are in it, and are taken.
        out: The file to write.
        hashed: End its name with the first eight digits of its SHA-256, as OpenMMLab's published files do.
        name: The peer, of several in the checkpoint.

    Returns:
        The file written.

    Raises:
        ValueError: If the checkpoint cannot be read or holds no student.
    """
    student = student_checkpoint(load_file(path, 'checkpoint').content, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f'.{out.name}')
    torch.save(student, unfinished)
    if hashed:
        digest = hashlib.sha256(unfinished.read_bytes()).hexdigest()
        out = out.with_name(f'{out.stem}-{digest[:8]}{out.suffix}')
    return unfinished.replace(out)
