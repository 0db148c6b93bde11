"""Whether a method can train a student at all: a trial on random outputs, before training."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe
from mmkd_plugin.adapters.reduction import tap_of
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods import Method, Requests
from mmkd_plugin.outputs import ClassScores, NetworkOutput

_TRIALS = 2
#: Losses of random outputs of order 1 are far above it, rounding errors far below.
_SMALLEST = 1e-6


def require_effect(
    method: Method, requests: Requests, student: Probe, teachers: Sequence[Probe]
) -> None:
    """Refuse a method with a loss that is 0 for all outputs of the networks' shapes.

    Examples are an attention map of one position, and soft targets of one class under a softmax.
    A copy of the method computes its losses from random outputs.

    Args:
        method: The method, after :meth:`~mmkd_plugin.models.methods.Method.build`.
        requests: Its needs.
        student: Probe of the student.
        teachers: Probes of the teachers.

    Raises:
        ConfigError: If a loss is 0 and without gradient in every trial.
    """
    weights = method.loss_weights.values()
    if not all(weights):  # a loss of weight 0 is meant to be 0
        return
    smallest = _SMALLEST * min(1.0, *weights, 1.0)
    idle: set[str] | None = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(_TRIALS):
            found = _idle_losses(method, requests, student, teachers, smallest)
            idle = found if idle is None else idle & found
    if idle:
        shapes = {tap: tuple(student.feature(tap).shape[1:]) for tap in requests.student}
        of_scores = student.output.scores
        seen = [f'{tap}: {shape}' for tap, shape in shapes.items()]
        if requests.scores and of_scores is not None:
            seen.append(str(of_scores))
        raise ConfigError(
            min(idle),
            'is 0 for all outputs of these shapes, so it trains nothing',
            'Tap a larger map, set its weight to 0, or use another method.',
            found='; '.join(seen),
        )


def _idle_losses(
    method: Method,
    requests: Requests,
    student: Probe,
    teachers: Sequence[Probe],
    smallest: float,
) -> set[str]:
    """Return the names of the losses that are 0 and pass no gradient, for one random draw."""
    trial = copy.deepcopy(method)
    own = _random(student.output, requests, requests.student, True)
    taps = requests.teachers or ((),) * len(teachers)
    others = [
        _random(teacher.output, requests, taps[index], False)
        for index, teacher in enumerate(teachers)
    ]
    leaves = [*own.features.values(), *((own.scores.logits,) if own.scores else ())]
    leaves += [own.boxes.values] if own.boxes else []
    with torch.enable_grad():
        try:
            losses = trial(own, others, _labels(own.scores, leaves))
        except Exception:  # it needs real or measured outputs: the first batch shows its error
            return set()
    return {
        name
        for name, value in losses.items()
        if 'loss' in name and _is_idle(value, leaves, smallest)
    }


def _is_idle(value: Tensor, leaves: Sequence[Tensor], smallest: float) -> bool:
    if float(value.detach().abs().max()) > smallest:
        return False
    if not value.requires_grad:
        return True
    gradients = torch.autograd.grad(value.sum(), leaves, retain_graph=True, allow_unused=True)
    return all(one is None or float(one.abs().max()) <= smallest for one in gradients)


def _random(
    output: NetworkOutput, requests: Requests, taps: Sequence[str], gradient: bool
) -> NetworkOutput:
    """Return random outputs in the shapes of a probe, with twice its images or more."""
    scores = output.scores if requests.scores or requests.boxes else None
    fewest = 4 if scores is None else 0  # angles between images need three

    def random(like: Tensor) -> Tensor:
        images = max(2 * like.shape[0], fewest)
        values = torch.randn(images, *like.shape[1:], device=like.device)
        return values.requires_grad_(gradient)

    features = {
        name: random(value) for name, value in output.features.items() if tap_of(name) in taps
    }
    if scores is not None:
        scores = _random_scores(scores, random(scores.logits), requests.assigned)
    boxes = output.boxes if requests.boxes else None
    if boxes is not None and scores is not None:
        boxes = replace(boxes, values=random(boxes.values), valid=scores.valid)
    return NetworkOutput(scores, features, boxes)


def _random_scores(scores: ClassScores, logits: Tensor, assigned: bool) -> ClassScores:
    valid = None if scores.valid is None else torch.cat([scores.valid, scores.valid])
    images = scores.logits.shape[0]
    shift = torch.tensor([images, 0, 0, 0, 0], device=logits.device)
    rois = tuple(torch.cat([one, one + shift]) for one in scores.rois)
    # One object everywhere.
    objects = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
    return replace(
        scores, logits=logits, valid=valid, rois=rois, assigned=objects if assigned else None
    )


def _labels(scores: ClassScores | None, leaves: Sequence[Tensor]) -> Tensor | None:
    """Return labels as a data set could have them; None where the classes are unknown."""
    if scores is None:
        return None
    images, classes = scores.logits.shape[0], scores.num_classes
    labels = torch.arange(images, device=scores.logits.device) % classes
    if scores.per_image and scores.activation == 'softmax':
        return labels
    return torch.nn.functional.one_hot(labels, classes).float()
