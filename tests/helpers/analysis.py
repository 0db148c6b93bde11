"""A tiny IE-KD student, its teacher, and 24 images of four classes.

The student compares attention, because that needs no paraphraser.
"""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from helpers import classification as tiny
from mmkd_plugin.analysis.network import LoadedNetwork

TAP = 'backbone.layer3'


def ie_kd(**changes: Any) -> dict[str, Any]:
    pairs = [dict(student=TAP, teacher=TAP)]
    return {**dict(type='IEKD', knowledge='attention', pairs=pairs), **changes}


def config_of(folder: Path, **methods: Any) -> Config:
    model = tiny.distiller_config(
        folder, teachers=tiny.teachers(folder, 1), methods=methods or dict(ie=ie_kd())
    )
    loader = dict(
        batch_size=16,
        num_workers=0,
        dataset=dict(type='TinyImages', length=24, seed=3),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    return Config(dict(model=model, default_scope='mmpretrain', val_dataloader=loader))


def checkpoint_of(cfg: Config, folder: Path) -> str:
    """Save a checkpoint like a run's, with a student whose layers differ between images."""
    distiller = ROOT_MODELS.build(cfg.model)
    distiller.student.load_state_dict(tiny.network(tiny.classifier(), seed=7).state_dict())
    path = folder / 'epoch_1.pth'
    torch.save(dict(state_dict=distiller.state_dict()), path)
    return str(path)


def network_of(model: nn.Module, name: str = 'net') -> LoadedNetwork:
    return LoadedNetwork(name, model)
