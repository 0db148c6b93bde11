"""The losses of methods alone: forward and backward, up to the outputs of the student."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.models.methods import Method
from mmkd_plugin.outputs import NetworkOutput

#: Outputs of the student and of the teachers, and labels.
Inputs = tuple[NetworkOutput, list[NetworkOutput], Tensor | None]


def inputs_of_methods(distiller: Any, data: dict[str, Any]) -> dict[str, Inputs]:
    """Return what each method of a distiller receives for a raw batch, by name."""
    found: dict[str, Inputs] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: object, inputs: Inputs) -> None:
            # The first call counts: the distiller checks the gradients of that batch by others.
            found.setdefault(name, inputs)

        return hook

    handles = [
        method.register_forward_pre_hook(keep(name)) for name, method in distiller.methods.named()
    ]
    with torch.no_grad():
        distiller(**distiller.data_preprocessor(data, True), mode='loss')
    for handle in handles:
        handle.remove()
    return found


def loss_alone(method: Method, inputs: Inputs) -> tuple[Callable[[], object], int]:
    """Return a step of a method's losses, and the bytes of the student's outputs that they read.

    Args:
        method: A built method.
        inputs: See :func:`inputs_of_methods`. Outputs of the student become leaves.
    """
    student, *others = inputs
    wanted = method.requests(len(inputs[1]))
    scores, boxes = student.scores, student.boxes
    own = replace(
        student,
        features={tap: leaf_of(student.features[tap]) for tap in wanted.student},
        scores=replace(scores, logits=leaf_of(scores.logits)) if scores and wanted.scores else None,
        boxes=replace(boxes, values=leaf_of(boxes.values)) if boxes and wanted.boxes else None,
    )
    leaves = own.tensors().values()

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        losses = method(own, *others)
        total = torch.stack([value for name, value in losses.items() if 'loss' in name]).sum()
        total.backward()

    return run, sum(one.numel() * one.element_size() for one in leaves)


def leaf_of(tensor: Tensor) -> Tensor:
    """Return a copy that receives a gradient."""
    return tensor.detach().clone().requires_grad_()
