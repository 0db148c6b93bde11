"""Outputs of a student and several teachers, classifiers, for AMTML-KD and its parts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.outputs import ClassScores, NetworkOutput

IMAGES, TEACHERS, CLASSES, DIMS = 6, 3, 5, 8
HINTS: dict[str, Any] = dict(
    student_groups=['low', 'middle', 'high'], teacher_taps='last', mapping=[2, 0, 1]
)
LABELS = torch.arange(IMAGES) % CLASSES


def student_output(images: int = IMAGES, **changes: Tensor) -> NetworkOutput:
    """Scores and three maps, all with gradient; ``high`` is the embedding."""
    maps = dict(
        low=torch.randn(images, 4, 8, 8),
        middle=torch.randn(images, 6, 4, 4),
        high=torch.randn(images, DIMS, 4, 4),
    )
    features = {name: value.requires_grad_() for name, value in {**maps, **changes}.items()}
    scores = ClassScores.of_images(logits(images))
    scores.logits.requires_grad_()
    return NetworkOutput(scores, features)


def teacher_outputs(images: int = IMAGES, count: int = TEACHERS) -> list[NetworkOutput]:
    """Scores and a last map each."""
    return [
        NetworkOutput(
            ClassScores.of_images(logits(images)), dict(last=torch.randn(images, 7, 4, 4))
        )
        for _ in range(count)
    ]


def logits(images: int) -> Tensor:
    return torch.randn(images, CLASSES)


def logits_of(one: NetworkOutput) -> Tensor:
    """The logits (N, C) of a classifier."""
    assert one.scores is not None
    return one.scores.logits[:, 0]


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    """The gradient of each leaf; zeros where there is none."""
    found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def largest(loss: Tensor, *leaves: Tensor) -> list[float]:
    """The largest absolute entry of the gradient of each leaf."""
    return [gradient.abs().max().item() for gradient in gradients(loss, *leaves)]


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of all losses, without the metrics."""
    return torch.stack([value for name, value in losses.items() if 'loss' in name]).sum()
