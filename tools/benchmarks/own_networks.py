"""Steps of the networks that a method runs beside the student and the teacher, without its loss."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from benchmarks.alone import leaf_of


def own_networks(distiller: Any, data: dict[str, Any]) -> Callable[[], object] | None:
    """Return a step of a method's own networks on maps of the right sizes, or None.

    These are MGD's generators and FGD's blocks of context, forward, backward and optimizer. For
    CrossKD they are the last layers of the teacher's head, forward and backward.

    Args:
        distiller: A distiller of one method, on dense detectors.
        data: A raw batch.
    """
    method = distiller.methods.method
    inputs = distiller.data_preprocessor(data, training=True)['inputs']
    with torch.no_grad():
        levels = [torch.randn_like(one) for one in distiller.student.extract_feat(inputs)]
    name = type(method).__name__
    if name == 'MGD':
        return _trained(method.generators, levels)
    if name == 'FGD':
        return _trained(nn.ModuleList(pair[0] for pair in method.contexts), levels, method.contexts)
    if name == 'CrossKD':
        return _continued(distiller.teachers[0].model.to(inputs.device).bbox_head, levels)
    return None


def _trained(
    networks: nn.ModuleList, levels: Sequence[Tensor], pairs: nn.ModuleList | None = None
) -> Callable[[], object]:
    """Return a step of one network a level, and of the teacher's in each of some pairs."""
    trained = networks if pairs is None else pairs
    optimizer = OptimWrapper(
        torch.optim.SGD(trained.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    )
    leaves = [leaf_of(one) for one in levels]

    def run() -> None:
        outputs = [one(leaf) for one, leaf in zip(networks, leaves, strict=True)]
        if pairs is not None:
            outputs += [pair[1](x) for pair, x in zip(pairs, levels, strict=True)]  # type: ignore[index]
        optimizer.update_params(torch.stack([one.mean() for one in outputs]).sum())
        for leaf in leaves:
            leaf.grad = None

    return run


def _continued(head: Any, levels: Sequence[Tensor]) -> Callable[[], object]:
    """Return the last convolution of each tower of GFL's head and its prediction, at each level."""
    towers = [
        (head.cls_convs[-1], head.gfl_cls, [leaf_of(one) for one in levels]),
        (head.reg_convs[-1], head.gfl_reg, [leaf_of(one) for one in levels]),
    ]

    def run() -> None:
        outputs = [last(conv(leaf)) for conv, last, leaves in towers for leaf in leaves]
        torch.stack([one.mean() for one in outputs]).sum().backward()
        for *_, leaves in towers:
            for leaf in leaves:
                leaf.grad = None

    return run
