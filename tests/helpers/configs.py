"""The configs of the repository, and what their tests do with them."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'configs'
CONFIGS = sorted(path for path in FOLDER.rglob('*.py') if '_base_' not in path.parts)
NAMES = [str(path.relative_to(FOLDER).with_suffix('')) for path in CONFIGS]


def fresh(name: str) -> Config:
    """Read a config, named as in ``NAMES``."""
    return Config.fromfile(FOLDER / f'{name}.py')


read = cache(fresh)  # for tests that change nothing: reading takes up to half a second


def last_checkpoint(cfg: Config) -> str:
    """Return the name of the checkpoint at the end of a run."""
    train = cfg.train_cfg
    return (
        f'epoch_{train.max_epochs}.pth' if 'max_epochs' in train else f'iter_{train.max_iters}.pth'
    )


def build(cfg: Config) -> Any:
    """Build the model of a config as the Runner does; the config stays as it is."""
    model = copy.deepcopy(dict(cfg.model))
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return MODELS.build({**model, '_scope_': cfg.default_scope})


def narrow(cfg: Config) -> Config:
    """Make WRN-28-10 among the peers a tenth as wide: the whole one is too large for a test."""
    for peer in cfg.model.peers:
        if 'widen_factor' in peer.model.backbone:
            peer.model.backbone.widen_factor = 1
            peer.model.head.in_channels = 64
    return cfg


def parameters(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def save(model: nn.Module, path: str | Path) -> None:
    """Save a model as a checkpoint, below a folder that may not exist yet."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=model.state_dict()), path)


def one_step(model: Any, cfg: Config, batch: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Do one training step, in which every parameter must have a gradient and move.

    Returns:
        The values that the model logs, and the optimizer wrapper.
    """
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    total, logged = model.parse_losses(
        model(**model.train().data_preprocessor(batch, True), mode='loss')
    )
    assert all(value.isfinite().all() for value in logged.values())
    wrapper.backward(total)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert not [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
    before = {name: p.detach().clone() for name, p in trained.items()}
    wrapper.step()
    assert not [name for name, p in trained.items() if torch.equal(p, before[name])]
    return logged, wrapper
