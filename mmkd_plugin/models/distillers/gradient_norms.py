"""How strongly each method pulls at a student, relative to the student's own losses."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmkd_plugin.adapters.tapped_model import outside_graphs
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods.base import Requests

#: Half precision loses gradients below 6e-8; a power of 2 changes no digit.
_SCALE = 2.0**10


@outside_graphs
def gradient_norms(
    tapped: Mapping[str, Sequence[Tensor]],
    requests: Mapping[str, Requests],
    losses: Mapping[str, object],
) -> dict[str, tuple[float, float]]:
    """Return the gradient norms of each method and of the task, at what the method reads.

    Nothing is added to the gradients of parameters, and the graph stays for the backward pass.

    Args:
        tapped: Tensors that modules of the student returned, by tap; class scores by other names.
        requests: Requests of the methods that work in this step.
        losses: All losses and metrics, as ``task.<name>`` and ``<method>.<name>``.

    Returns:
        By method: the L2 norm of its gradient, and that of the task's.
    """
    found = {}
    for name, one in requests.items():
        taps = set(one.student) - set(one.read_only)
        read = [
            tensor
            for tap, tensors in tapped.items()
            if tap in taps or (one.scores and tap.startswith('scores of '))
            for tensor in tensors
            if tensor.requires_grad
        ]
        if read:
            found[name] = _norm(losses, name, read), _norm(losses, 'task', read)
    return found


def _norm(losses: Mapping[str, object], group: str, read: Sequence[Tensor]) -> float:
    values: list[Tensor] = []
    for name, value in losses.items():
        if name.startswith(f'{group}.') and 'loss' in name.removeprefix(f'{group}.'):
            values += value if isinstance(value, (list, tuple)) else [value]  # type: ignore[list-item]
    total = sum((value.mean() for value in values if value.requires_grad), start=torch.zeros(()))
    if not total.requires_grad:
        return 0.0
    try:
        gradients = torch.autograd.grad(
            _SCALE * total, list(read), retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:
        if 'heckpoint' not in str(error):
            raise
        raise ConfigError(
            'custom_hooks',
            'LogGradientNorms cannot follow gradients through recomputed blocks (with_cp)',
            'Measure with with_cp=False, or remove the hook.',
        ) from error
    squares = [one.double().square().sum() for one in gradients if one is not None]
    return float(torch.stack(squares).sum().sqrt()) / _SCALE if squares else 0.0
