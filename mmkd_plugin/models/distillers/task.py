"""A network's own losses, and the labels, of one batch."""

from collections.abc import Mapping
from typing import Any

from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd_plugin.adapters import Host
from mmkd_plugin.models.methods import Method

#: What the samples of a task's data sets have, as the hosts pack them.
_ANNOTATIONS = {'classification': ('gt_label', 'gt_score'), 'detection': ('gt_instances',)}


def task_losses(
    network: nn.Module, host: Host, inputs: Any, data_samples: Any, weight: float
) -> dict[str, Any]:
    """The network's own losses as ``task.<name>``, weighted; facts stay as they are.

    At weight 0 they are not computed, and no label is needed: the network runs for its taps.

    Args:
        network: As it is called: bare, or wrapped for several processes.
        host: Of the network.
        inputs: The preprocessed batch, (N, C, H, W).
        data_samples: The host's.
        weight: Of the losses.
    """
    if not weight:
        host.run(network, inputs, scores=True)
        return {}
    losses = network(inputs, data_samples, mode='loss')
    return {f'task.{name}': _weighted(name, value, weight) for name, value in losses.items()}


def labels_for(
    key: str, host: Host, data_samples: Any, task_weight: float, methods: Mapping[str, Method]
) -> Tensor | None:
    """The labels of a batch, None if it has none.

    Raises:
        ValueError: If it has none, and the task loss or a method needs them; or if it is of another task than the network under ``key``.
    """
    _require_same_task(key, host, data_samples)
    if not host.missing_labels(data_samples):
        return host.labels(data_samples)
    if task_weight:
        raise ValueError(
            f'task_weight: expected labels in the training data for the task loss (task_weight={task_weight}), got a batch '
            'without; set task_weight=0 to train without labels'
        )
    for name, method in methods.items():
        if method.needs_labels:
            raise ValueError(
                f'methods.{name}: expected labels in the training data, got a batch without'
            )
    return None


def _require_same_task(key: str, host: Host, data_samples: Any) -> None:
    """A classifier cannot learn in a detector's run, nor a detector in a classifier's; a model that no host knows is taken at its word."""
    if not host.task or not isinstance(data_samples, (list, tuple)):
        return
    for task, names in _ANNOTATIONS.items():
        of_this = any(
            isinstance(one, BaseDataElement) and any(name in one for name in names)
            for one in data_samples
        )
        if of_this and task != host.task:
            raise ValueError(
                f'{key}: expected a model for {task}, as the training data are, got one for {host.task}'
            )


def _weighted(name: str, value: Any, weight: float) -> Any:
    if 'loss' not in name or weight == 1.0:
        return value
    return [weight * item for item in value] if isinstance(value, (list, tuple)) else weight * value
