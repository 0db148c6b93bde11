"""The rows of one family: its smallest config that trains without us, by each method."""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

from experiments.compatibility.families import Family, model_of
from experiments.compatibility.plain import (
    calibrated,
    classes_of,
    plain_step,
    seed,
    size_of,
    teacher_file,
)
from experiments.compatibility.taps import map_tap_of, tap_of
from experiments.compatibility.trial import (
    METHODS,
    NOT_PLAIN,
    TRAINED,
    Trial,
    reason_of,
    try_methods,
)

#: The framework does not train the model, but it works as a teacher of a ResNet-18.
TEACHER = 'teacher only'
_STUDENT = 'resnet/resnet18_8xb32_in1k.py'
_CONFIGS_TRIED = 3
#: A loss above it comes of an untrained network whose activations grow from layer to layer.
_DIVERGED = 1e4

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
            if max(map(abs, losses.values())) > _DIVERGED:
                model = calibrated(plain, batch, model, Path(folder))
                plain, batch, losses = plain_step(family.host, model)
            teacher = dict(name='t', model=model, checkpoint=teacher_file(plain, Path(folder)))
            tap = tap_of(plain)
            taps = (tap, map_tap_of(plain, tap, size_of(batch)))
            trial = Trial(model, teacher, batch, losses, taps, taps)
            for method, verdict, reason in try_methods(trial):
                yield dict(**base, method=method, verdict=verdict, reason=reason)
        return
    if family.host == 'mmpretrain':
        rows = [row for config in family.configs[:1] for row in _as_teacher(family, config)]
        if rows:
            yield from rows
            return
    for method in METHODS:
        reason = reasons[0] if reasons else 'no config has a model'
        config = family.configs[0]
        row = dict(family=family.key, config=config, method=method)
        yield dict(**row, verdict=NOT_PLAIN, reason=reason)


def _as_teacher(family: Family, config: str) -> list[Row]:
    """Return rows of a model as a teacher of a ResNet-18; none if it does not run at all."""
    try:
        model = model_of(family.host, config)
        init_default_scope(family.host)
        seed()
        network = MODELS.build(copy.deepcopy(model))
        network.init_weights()
        student = model_of('mmpretrain', _STUDENT)
        student.head.num_classes = classes_of(model) if getattr(network, 'head', None) else 1000
        plain, batch, losses = plain_step('mmpretrain', student)
    except Exception:  # its packages or files are not here
        return []
    taps = [
        (tap, map_tap_of(one, tap, size_of(batch)))
        for one in (plain, network)
        for tap in (tap_of(one),)
    ]
    with tempfile.TemporaryDirectory() as folder:
        teacher = dict(name='t', model=model, checkpoint=teacher_file(network, Path(folder)))
        trial = Trial(student, teacher, batch, losses, *taps)
        return [
            dict(
                family=family.key,
                config=config,
                method=method,
                verdict=TEACHER if verdict == TRAINED else verdict,
                reason=reason,
            )
            for method, verdict, reason in try_methods(trial)
        ]
