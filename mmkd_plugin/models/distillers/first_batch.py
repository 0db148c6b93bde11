"""Checks of the first training batch: what it shows holds for all of them."""

from collections.abc import Mapping
from typing import Any

from mmengine.structures import BaseDataElement

from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods.base import Requests

#: Annotations in the samples of each task's data sets.
_ANNOTATIONS = {'classification': ('gt_label', 'gt_score'), 'detection': ('gt_instances',)}


def check_labels(
    network: TappedModel, data_samples: Any, task_weight: float, requests: Mapping[str, Requests]
) -> None:
    """Check that a batch belongs to the task of the network, and has the labels that are needed.

    Raises:
        ConfigError: If not.
    """
    task = network.adapter.task
    samples = data_samples if task and isinstance(data_samples, (list, tuple)) else ()
    for other, names in _ANNOTATIONS.items():
        found = any(
            isinstance(sample, BaseDataElement) and any(name in sample for name in names)
            for sample in samples
        )
        if found and other != task:
            raise ConfigError(
                network.key, f'must be a model for {other}, as the training data are', found=task
            )
    if not network.adapter.missing_labels(data_samples):
        return
    if task_weight:
        raise ConfigError(
            'task_weight',
            'needs labels in the training data, and the first batch has none',
            'Set task_weight=0 to train without labels.',
            found=task_weight,
        )
    for name, one in requests.items():
        if one.needs_labels:
            raise ConfigError(
                f'methods.{name}', 'needs labels in the training data, and the first batch has none'
            )
