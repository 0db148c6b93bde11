"""One training step of one family: the plain model, then a student of its kind by each method."""

import contextlib
import copy
import math
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from experiments.compatibility.batches import raw_batches
from experiments.compatibility.families import Family, model_of
from mmkd_plugin.adapters.inspect_taps import tap_points
from mmkd_plugin.errors import ConfigError

#: Verdicts of a row.
TRAINED, REFUSED, FAILED, NOT_PLAIN = 'trained', 'refused', 'FAILED', 'not runnable here'
METHODS = ('Hint', 'AttentionTransfer', 'IEKD', 'SoftTarget', 'AMTMLKD')
_CONFIGS_TRIED = 3
_SEED = 7
_CLASSES = 10
#: Methods that compare maps.
_OF_MAPS = ('AttentionTransfer', 'IEKD')

Row = dict[str, str]


def try_family(family: Family) -> Iterator[Row]:
    """Yield a row for each method: family, config, method, verdict and reason.

    Args:
        family: The family. Its smallest config that trains without us is used.
    """
    torch.set_num_threads(1)
    for name in ('epoch', 'iter'):  # the Runner publishes them, and some heads read them
        MessageHub.get_current_instance().update_info(name, 0)
    reasons = []
    for config in family.configs[:_CONFIGS_TRIED]:
        base = dict(family=family.key, config=config)
        try:
            model = model_of(family.host, config)
            if model is None:
                continue
            plain, batch, losses = plain_step(family.host, model)
        except Exception as error:
            reasons.append(f'{config}: {reason_of(error)}')
            continue
        with tempfile.TemporaryDirectory() as folder:
            teacher = dict(name='t', model=model, checkpoint=_teacher_file(plain, Path(folder)))
            for method, verdict, reason in _try_methods(model, teacher, batch, losses, plain):
                yield dict(**base, method=method, verdict=verdict, reason=reason)
        return
    for method in METHODS:
        reason = reasons[0] if reasons else 'no config has a model'
        config = family.configs[0]
        row = dict(family=family.key, config=config, method=method)
        yield dict(**row, verdict=NOT_PLAIN, reason=reason)


def plain_step(host: str, config: Any) -> tuple[nn.Module, dict[str, Any], dict[str, float]]:
    """Build a plain model, and compute the losses of one batch that it accepts.

    Returns:
        The model, the raw batch, and the losses by name.

    Raises:
        Exception: The last error of the framework, if the model accepts no batch.
    """
    init_default_scope(host)
    _seed()
    model = MODELS.build(copy.deepcopy(config))
    model.init_weights()
    failure: Exception = RuntimeError('it has no loss')
    for batch in raw_batches(host, model, classes_of(config)):
        try:
            return model, batch, {k: _total(v) for k, v in losses_of(model, batch).items()}
        except Exception as error:
            failure = error
    raise failure


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
    _seed()
    data = model.data_preprocessor(copy.deepcopy(dict(batch)), True)
    found: dict[str, Any] = model(**data, mode='loss')
    return found


def _try_methods(
    model: Any, teacher: Any, batch: Mapping[str, Any], plain: Mapping[str, float], network: Any
) -> Iterator[tuple[str, str, str]]:
    """Yield method, verdict and reason; first all at once, then alone those that this stops."""
    tap = tap_of(network)
    maps = map_tap_of(network, tap, tuple(batch['inputs'][0].shape[-2:]))
    groups = [METHODS[:3], METHODS[3:]]
    for group in groups:
        verdicts = _step(group, model, teacher, batch, plain, tap, maps)
        if any(verdict != TRAINED for verdict, _ in verdicts.values()):
            verdicts = {}
            for method in group:
                verdicts |= _step((method,), model, teacher, batch, plain, tap, maps)
        for method, (verdict, reason) in verdicts.items():
            yield method, verdict, reason


def _step(
    methods: tuple[str, ...],
    model: Any,
    teacher: Any,
    batch: Mapping[str, Any],
    plain: Mapping[str, float],
    tap: str,
    maps: str,
) -> dict[str, tuple[str, str]]:
    """Return the verdict and the reason of each method, from one step of a distiller with all."""
    try:
        _seed()
        distiller = MODELS.build(
            dict(
                type='mmkd_plugin.Distiller',
                student=model,
                teachers=[teacher],
                methods={
                    name.lower(): method_config(name, maps if name in _OF_MAPS else tap)
                    for name in methods
                },
            )
        )
        distiller.init_weights()
        losses = losses_of(distiller, batch)
    except ConfigError as error:
        return dict.fromkeys(methods, (REFUSED, reason_of(error)))
    except Exception as error:
        return dict.fromkeys(methods, (FAILED, reason_of(error)))
    for name, value in plain.items():
        task = losses.get(f'task.{name}')
        if 'loss' in name and (task is None or _total(task) != value):
            found = None if task is None else _total(task)
            reason = f'task loss {name} is {found}, {value} without a teacher'
            return dict.fromkeys(methods, (FAILED, reason))
    return {name: _verdict(distiller, losses, name.lower()) for name in methods}


def _verdict(distiller: Any, losses: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Judge the losses of one method: finite, above 0, with gradient in the student."""
    own = {k: v for k, v in losses.items() if k.startswith(f'{name}.') and 'loss' in k}
    total = sum(value.sum() for value in own.values())
    if not own or not isinstance(total, torch.Tensor) or not torch.isfinite(total):
        return FAILED, f'its losses are {own}'
    distiller.zero_grad()
    try:
        total.backward(retain_graph=True)
    except RuntimeError as error:
        return FAILED, reason_of(error)
    moved = [p for p in distiller.student.parameters() if p.grad is not None and p.grad.any()]
    size = sum(float(value.detach().abs().sum()) for value in own.values())  # parts can cancel
    if not moved or size == 0:
        return FAILED, f'silent: loss {size:g}, gradient in {len(moved)} parameters'
    if not all(p.grad.isfinite().all() for p in moved):
        return FAILED, 'a gradient is not finite'
    return TRAINED, ''


def method_config(name: str, tap: str) -> dict[str, Any]:
    """Return the config of a method with one tap for both networks."""
    pairs = [dict(student=tap, teacher=tap)]
    anywhere = dict(background=0.0)  # an untrained detector is confident nowhere
    if name == 'SoftTarget':
        return dict(type=name, temperature=4.0, locations=anywhere)
    if name == 'AMTMLKD':
        hints = dict(student_groups=[tap], teacher_taps=tap, mapping=[0])
        return dict(type=name, locations=anywhere, **hints)
    if name == 'IEKD':
        return dict(type=name, pairs=pairs, knowledge='attention')
    return dict(type=name, pairs=pairs)


def tap_of(model: Any) -> str:
    """Return the tap that a user would name: the last map of the backbone, or the first of a neck.

    Args:
        model: The network.
    """
    if hasattr(model, 'rpn_head') or hasattr(model, 'bbox_head') or hasattr(model, 'mask_head'):
        part = 'neck[0]' if getattr(model, 'neck', None) is not None else 'backbone[-1]'
    else:
        part = 'backbone[-1]'
    if hasattr(model, part.partition('[')[0]):
        return part
    inner = [name for name in ('image_encoder', 'model') if hasattr(model, name)]
    return inner[0] if inner else part


def map_tap_of(model: nn.Module, tap: str, size: tuple[int, int]) -> str:
    """Return the tap of the last map where ``tap`` is a vector: the last stage or block.

    Args:
        model: The network.
        tap: The usual tap.
        size: (height, width) of the images.
    """
    try:
        points = tap_points(model, (3, *size))
    except ConfigError:
        return tap
    shapes = {point.tap: point.shape for point in points if not point.obstacle}
    own = shapes.get(tap) or next(
        (s for t, s in reversed(shapes.items()) if t.partition('[')[0] == tap.partition('[')[0]), ()
    )
    if len(own) != 2:
        return tap
    blocks = [
        point.tap
        for point in points
        if not point.obstacle
        and point.tap.startswith('backbone.')
        and point.tap.count('.') <= 2
        and math.prod(point.shape[2:] if len(point.shape) == 4 else point.shape[1:2]) > 1
        and len(point.shape) in (3, 4)
    ]
    return blocks[-1] if blocks else tap


def reason_of(error: Exception) -> str:
    """Return one short line about an error: the whole of ours, type and first line of others."""
    lines = str(error).strip().splitlines() or ['']
    text = lines[0] if isinstance(error, ConfigError) else f'{type(error).__name__}: {lines[0]}'
    return text if len(text) <= 240 else f'{text[:239]}…'


def _teacher_file(plain: nn.Module, folder: Path) -> str:
    """Save the model with other weights: those of a trained teacher, as far as a step can tell."""
    generator = torch.Generator().manual_seed(_SEED)
    state = {
        name: value + 0.02 * torch.randn(value.shape, generator=generator)
        if value.is_floating_point() and not name.endswith('running_var')
        else value
        for name, value in plain.state_dict().items()
    }
    path = folder / 'teacher.pth'
    torch.save(dict(state_dict=state), path)
    return str(path)


def _total(value: Any) -> float:
    values = value if isinstance(value, (list, tuple)) else [value]
    with contextlib.suppress(AttributeError):
        return float(sum(one.detach().sum() for one in values))
    return float(sum(values))


def _seed() -> None:
    random.seed(_SEED)
    np.random.seed(_SEED)
    torch.manual_seed(_SEED)
