"""Whether the losses of methods reach the student: seen in the graph of the first batch."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods.base import Requests
from mmkd_plugin.outputs import NetworkOutput


def require_gradient(
    network: TappedModel,
    output: NetworkOutput,
    requests: Mapping[str, Requests],
    losses: Mapping[str, Tensor],
) -> None:
    """Refuse taps and losses through which no parameter of a network can be trained.

    A tap has no gradient behind frozen stages, inside a block that is recomputed (``with_cp``), and
    in layers with a backward pass of their own. Its loss would be logged and would train nothing.

    Args:
        network: The network that learns.
        output: Its outputs for the batch, with gradient.
        requests: The requests of its methods, by name.
        losses: The losses and metrics of the methods, as ``<method>.<name>``.

    Raises:
        ConfigError: If a tap, the class scores, or all losses of a method do not depend on a
            parameter that is trained.
    """
    trained = {id(one) for one in network.model.parameters() if one.requires_grad}
    scores = output.scores
    for name, one in requests.items():
        key = f'methods.{name}'
        for tap in dict.fromkeys(one.student):
            if tap not in one.read_only and not _depends(output.feature(tap), trained):
                raise ConfigError(
                    key,
                    f'its loss cannot train the {network.key}: no gradient passes through the tap. '
                    f'{_reason(network.model, tap)}',
                    'Tap a module behind the frozen ones, or the output of a whole stage.',
                    found=tap,
                )
        if one.scores and scores is not None and not _depends(scores.logits, trained):
            raise ConfigError(
                key,
                f'its loss cannot train the {network.key}: the class scores depend on no parameter '
                'that is trained',
                'Unfreeze the head.',
                found=type(network.model).__name__,
            )
        own = [v for n, v in losses.items() if n.startswith(f'{name}.') and 'loss' in n]
        if not any(_depends(value, trained) for value in own):
            raise ConfigError(
                key,
                f'none of its losses depends on a parameter of the {network.key} that is trained',
                'Remove the method, or let gradient pass through it.',
                found=[n for n in losses if n.startswith(f'{name}.')],
            )


def _depends(tensor: Tensor, trained: set[int]) -> bool:
    """Whether a tensor depends on one of these parameters in the graph of autograd."""
    if not tensor.requires_grad:
        return False
    if tensor.grad_fn is None:
        return id(tensor) in trained
    open_nodes: list[Any] = [tensor.grad_fn]
    seen = set(open_nodes)
    while open_nodes:
        node = open_nodes.pop()
        if id(getattr(node, 'variable', None)) in trained:
            return True
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                open_nodes.append(following)
    return False


def _reason(model: nn.Module, tap: str) -> str:
    """Return what in the model stops gradients, as far as its attributes show it."""
    causes: Iterable[str] = (
        f'{path or "the model"} has {name}={value!r}'
        for path, module in model.named_modules()
        for name in ('frozen_stages', 'with_cp')
        if (value := getattr(module, name, None)) not in (None, False, -1, 0)
        and tap.startswith(path)
    )
    frozen = not any(parameter.requires_grad for parameter in model.parameters())
    found = 'Every parameter is frozen' if frozen else ', '.join(causes)
    return found or 'The parameters before it are frozen, or run without gradient'
