"""One training step of a student with one teacher, by each method."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import MODELS

from experiments.compatibility.plain import losses_of, seed, total
from mmkd_plugin.errors import ConfigError

#: Verdicts of a row.
TRAINED, REFUSED, FAILED, NOT_PLAIN = 'trained', 'refused', 'FAILED', 'not runnable here'
METHODS = ('Hint', 'AttentionTransfer', 'IEKD', 'SoftTarget', 'AMTMLKD')
#: Methods that compare maps.
_OF_MAPS = ('AttentionTransfer', 'IEKD')


@dataclass(frozen=True)
class Trial:
    """One student, one teacher and one batch for all methods.

    Args:
        student: Config of the student.
        teacher: Config of the teacher, with its checkpoint.
        batch: A raw batch that the student accepts.
        plain: Losses of the student without a teacher, by name.
        student_taps: The usual tap, and that of a map.
        teacher_taps: The same of the teacher.
    """

    student: Any
    teacher: Mapping[str, Any]
    batch: Mapping[str, Any]
    plain: Mapping[str, float]
    student_taps: tuple[str, str]
    teacher_taps: tuple[str, str]


def try_methods(trial: Trial) -> Iterator[tuple[str, str, str]]:
    """Yield method, verdict and reason; first all at once, then alone those that this stops."""
    for group in (METHODS[:3], METHODS[3:]):
        verdicts = _step(group, trial)
        if any(verdict != TRAINED for verdict, _ in verdicts.values()):
            verdicts = {}
            for method in group:
                verdicts |= _step((method,), trial)
        for method, (verdict, reason) in verdicts.items():
            yield method, verdict, reason


def _step(methods: tuple[str, ...], trial: Trial) -> dict[str, tuple[str, str]]:
    """Return the verdict and the reason of each method, from one step of a distiller with all."""
    try:
        seed()
        distiller = MODELS.build(
            dict(
                type='mmkd_plugin.Distiller',
                student=trial.student,
                teachers=[trial.teacher],
                methods={name.lower(): method_config(name, trial) for name in methods},
            )
        )
        distiller.init_weights()
        losses = losses_of(distiller, trial.batch)
    except ConfigError as error:
        return dict.fromkeys(methods, (REFUSED, reason_of(error)))
    except Exception as error:
        return dict.fromkeys(methods, (FAILED, reason_of(error)))
    for name, value in trial.plain.items():
        task = losses.get(f'task.{name}')
        if 'loss' in name and (task is None or total(task) != value):
            found = None if task is None else total(task)
            reason = f'task loss {name} is {found}, {value} without a teacher'
            return dict.fromkeys(methods, (FAILED, reason))
    return {name: _verdict(distiller, losses, name.lower()) for name in methods}


def _verdict(distiller: Any, losses: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Judge the losses of one method: finite, above 0, with gradient in the student."""
    own = {k: v for k, v in losses.items() if k.startswith(f'{name}.') and 'loss' in k}
    whole = sum(value.sum() for value in own.values())
    if not own or not isinstance(whole, torch.Tensor) or not torch.isfinite(whole):
        return FAILED, f'its losses are {own}'
    distiller.zero_grad()
    try:
        whole.backward(retain_graph=True)
    except RuntimeError as error:
        return FAILED, reason_of(error)
    moved = [p for p in distiller.student.parameters() if p.grad is not None and p.grad.any()]
    size = sum(float(value.detach().abs().sum()) for value in own.values())  # parts can cancel
    if not moved or size == 0:
        return FAILED, f'silent: loss {size:g}, gradient in {len(moved)} parameters'
    if not all(p.grad.isfinite().all() for p in moved):
        return FAILED, 'a gradient is not finite'
    return TRAINED, ''


def method_config(name: str, trial: Trial) -> dict[str, Any]:
    """Return the config of a method with one tap in each network."""
    student, teacher = (taps[name in _OF_MAPS] for taps in (trial.student_taps, trial.teacher_taps))
    pairs = [dict(student=student, teacher=teacher)]
    anywhere = dict(background=0.0)  # an untrained detector is confident nowhere
    if name == 'SoftTarget':
        return dict(type=name, temperature=4.0, locations=anywhere)
    if name == 'AMTMLKD':
        hints = dict(student_groups=[student], teacher_taps=teacher, mapping=[0])
        return dict(type=name, locations=anywhere, **hints)
    if name == 'IEKD':
        return dict(type=name, pairs=pairs, knowledge='attention')
    return dict(type=name, pairs=pairs)


def reason_of(error: Exception) -> str:
    """Return one short line about an error: the whole of ours, type and first line of others."""
    lines = str(error).strip().splitlines() or ['']
    text = lines[0] if isinstance(error, ConfigError) else f'{type(error).__name__}: {lines[0]}'
    return text if len(text) <= 240 else f'{text[:239]}…'
