"""A tiny IE-KD student of attention, which needs no paraphraser, its teacher, and 24 images of four classes."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from helpers import classification as tiny
from mmkd_plugin.adapters import host_of
from mmkd_plugin.analysis.networks import Network

TAP = 'backbone.layer3'


def ie_kd(**changes: Any) -> dict[str, Any]:
    return dict(
        type='IEKD', knowledge='attention', pairs=[dict(student=TAP, teacher=TAP)], **changes
    )


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
    """As a run of this config writes it, of a student whose layers tell images apart."""
    distiller = ROOT_MODELS.build(cfg.model)
    distiller.student.load_state_dict(tiny.network(tiny.classifier(), seed=7).state_dict())
    path = folder / 'epoch_1.pth'
    torch.save(dict(state_dict=distiller.state_dict()), path)
    return str(path)


def network_of(model: nn.Module, name: str = 'net') -> Network:
    """A network by itself."""
    return Network(name, model.requires_grad_(False).eval(), host_of(model))
