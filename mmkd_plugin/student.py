"""The student of a distillation config, alone: to test it, to export it, to look into it."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import is_model_wrapper
from torch import nn

from mmkd_plugin.checkpoint import STUDENT_PREFIX, load_file, student_checkpoint
from mmkd_plugin.networks import build_network, network_config
from mmkd_plugin.registry import SCOPE


def is_distiller(cfg: Config) -> bool:
    """Whether a config trains a student."""
    return str(cfg.model.get('type')) in (f'{SCOPE}.Distiller', 'Distiller')


def as_student(cfg: Config) -> bool:
    """Make a distillation config that of its student, in place; hooks that look at teachers go. Other configs stay.

    Returns:
        Whether it was a distillation config.
    """
    if not is_distiller(cfg):
        return False
    cfg.model = network_config(cfg.model, 'model', data_preprocessor=cfg.get('data_preprocessor'))
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if not str(hook['type']).startswith(f'{SCOPE}.')]
    return True


def network_of(config: str, name: str = 'student') -> nn.Module:
    """Build the student or a teacher of a config, without any weights; of another config its only model.

    Args:
        config: A config path, or ``'pkg::path'``.
        name: ``'student'``, or a teacher's name.

    Raises:
        ValueError: If no network has this name.
    """
    if name == 'student':
        return build_network(network_config(config, 'model'), 'model')
    cfg = get_config(config) if '::' in config else Config.fromfile(config)
    default = cfg.get('data_preprocessor')
    teachers = list(cfg.model.get('teachers', [])) if is_distiller(cfg) else []
    for teacher in teachers:
        if teacher.get('name') == name:
            own = teacher.get('data_preprocessor', default)
            return build_network(network_config(teacher['model'], name, teacher.get('cfg_options'), own), name)
    names = ['student', *(str(teacher.get('name')) for teacher in teachers)]
    raise ValueError(f'--network: expected one of {names}, got {name!r}')


def load_student(model: nn.Module, path: str) -> None:
    """Load a distillation run's checkpoint, or a student's alone, strictly into the student.

    Raises:
        ValueError: If any key is missing, unexpected or of another shape.
    """
    content = load_file(path, 'checkpoint').content
    state = content.get('state_dict', content)
    if any(name.startswith(STUDENT_PREFIX) for name in state):
        state = student_checkpoint(content)['state_dict']
    network: Any = model.module if is_model_wrapper(model) else model
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f'checkpoint: expected the weights of this student, got {path}: {error}') from error


def export_student(path: str, out: Path, hashed: bool = False) -> Path:
    """Write the student of a distillation checkpoint as its own framework's checkpoint.

    Args:
        path: The checkpoint. Where a run averages weights (EMA), the averaged ones are in it, and are taken.
        out: The file to write.
        hashed: End its name with the first eight digits of its SHA-256, as OpenMMLab's published files do.

    Returns:
        The file written.

    Raises:
        ValueError: If the checkpoint cannot be read or holds no student.
    """
    student = student_checkpoint(load_file(path, 'checkpoint').content)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f'.{out.name}')
    torch.save(student, unfinished)
    if hashed:
        digest = hashlib.sha256(unfinished.read_bytes()).hexdigest()
        out = out.with_name(f'{out.stem}-{digest[:8]}{out.suffix}')
    return unfinished.replace(out)
