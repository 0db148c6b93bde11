"""The plain model of a config: its losses on a batch, and a teacher made of it."""

import contextlib
import copy
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from experiments.compatibility.batches import raw_batches

_SEED = 7
_CLASSES = 10


def plain_step(host: str, config: Any) -> tuple[nn.Module, dict[str, Any], dict[str, float]]:
    """Build a plain model, and compute the losses of one batch that it accepts.

    Returns:
        The model, the raw batch, and the losses by name.

    Raises:
        Exception: The first error of the framework, if the model accepts no batch.
    """
    init_default_scope(host)
    seed()
    model = MODELS.build(copy.deepcopy(config))
    model.init_weights()
    failure: Exception | None = None
    for batch in raw_batches(host, model, classes_of(config)):
        try:
            return model, batch, {k: total(v) for k, v in losses_of(model, batch).items()}
        except Exception as error:
            failure = failure or error  # of the most usual form
    raise failure or RuntimeError('it has no loss')


def classes_of(config: Any) -> int:
    """Return the number of classes that a model config states first; 10 if it states none."""
    if isinstance(config, dict):
        if isinstance(config.get('num_classes'), int):
            return int(config['num_classes'])
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        return next((n for n in map(classes_of, config) if n != _CLASSES), _CLASSES)
    return _CLASSES


def losses_of(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the losses and metrics of one raw batch in training mode."""
    model.train()
    seed()
    data = model.data_preprocessor(copy.deepcopy(dict(batch)), True)
    found: dict[str, Any] = model(**data, mode='loss')
    return found


def calibrated(plain: Any, batch: Mapping[str, Any], config: Any, folder: Path) -> Any:
    """Return the config with weights whose BatchNorm statistics are those of the batch.

    Without its pretrained weights, a deep backbone of frozen statistics 0 and 1 makes scores of
    1e8: every softmax is then one class, and two networks agree where nothing can be learned.
    """
    plain.train()
    norms = [m for m in plain.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the mean of what it sees
    seed()
    with torch.no_grad():
        data = plain.data_preprocessor(copy.deepcopy(dict(batch)), True)
        plain(**data, mode='loss')
    path = folder / 'student.pth'
    torch.save(dict(state_dict=plain.state_dict()), path)
    return dict(config, init_cfg=dict(type='Pretrained', checkpoint=str(path)))


def teacher_file(plain: nn.Module, folder: Path) -> str:
    """Save the model with other weights: those of a trained teacher, as far as a step can tell."""
    generator = torch.Generator().manual_seed(_SEED)
    state = plain.state_dict()
    for name, value in plain.named_parameters():
        if value.is_floating_point() and value.numel() > 1:
            # A tenth of its own spread: the outputs of very deep networks stay finite. Heads of
            # transformers begin at 0, and would give every network the same scores.
            spread = float(value.detach().std()) or 0.1
            noise = torch.randn(value.shape, generator=generator)
            state[name] = value.detach() + 0.1 * spread * noise
    path = folder / 'teacher.pth'
    torch.save(dict(state_dict=state), path)
    return str(path)


def size_of(batch: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width) of the images of a raw batch."""
    height, width = batch['inputs'][0].shape[-2:]
    return height, width


def total(value: Any) -> float:
    """Return the sum of a loss: a tensor, a number, or a list of them."""
    values = value if isinstance(value, (list, tuple)) else [value]
    with contextlib.suppress(AttributeError):
        return float(sum(one.detach().sum() for one in values))
    return float(sum(values))


def seed() -> None:
    """Set the random numbers of Python, NumPy and torch to those of every trial."""
    random.seed(_SEED)
    np.random.seed(_SEED)
    torch.manual_seed(_SEED)
