"""Checks of the first training batch: what it shows holds for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmkd_plugin.adapters.dry_run import first_line
from mmkd_plugin.adapters.probe import Probe
from mmkd_plugin.adapters.tapped_model import TappedModel, outside_graphs
from mmkd_plugin.errors import ConfigError, config_key
from mmkd_plugin.models.distillers.effect import require_effect
from mmkd_plugin.models.distillers.gradient_check import require_gradient
from mmkd_plugin.models.distillers.teacher_inputs import several_views
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.outputs import NetworkOutput

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
                f'methods.{name}',
                'needs labels in the training data, and the first batch has none',
                one.label_fix,
            )


@dataclass(frozen=True, eq=False)
class Batch:
    """The first batch of a network that learns.

    Args:
        inputs: The preprocessed batch, (N, C, H, W).
        data_samples: The framework's.
        student: Outputs of the network.
        teachers: Outputs of its teachers, by their config key.
        frozen: Whether the teachers stay as they are; peers learn to output classes.
    """

    inputs: Any
    data_samples: Any
    student: NetworkOutput
    teachers: Mapping[str, NetworkOutput]
    frozen: bool = True


def check_outputs(network: TappedModel, batch: Batch) -> None:
    """Check the outputs of a batch before the methods receive them.

    Args:
        network: The network that learns.
        batch: The batch.

    Raises:
        ConfigError: If class scores do not belong to the images of the batch, or if a tap returns
            another form than in the probe.
    """
    images = len(batch.inputs) if isinstance(batch.inputs, Tensor) else None
    for key, output in {network.key: batch.student, **batch.teachers}.items():
        _require_rows(key, output, images)
    _require_probed_form(network, batch.student)


@outside_graphs  # it runs once, on values of real tensors
def check_losses(
    network: TappedModel,
    methods: Mapping[str, Method],
    requests: Mapping[str, Requests],
    batch: Batch,
    losses: Mapping[str, Tensor],
) -> None:
    """Check the losses of a batch before the optimizer uses them.

    Args:
        network: The network that learns.
        methods: Its methods, by name.
        requests: Their requests, by name.
        batch: The batch.
        losses: Losses and metrics of the methods, as ``<method>.<name>``.

    Raises:
        ConfigError: If a method cannot train the network with maps of these sizes, or if no
            teacher outputs a class where there are objects.
    """
    if torch.is_grad_enabled():
        require_gradient(network, batch.student, requests, losses)
    own = Probe(network.key, _first_images(batch.student))
    others = [Probe(key, _first_images(output)) for key, output in batch.teachers.items()]
    for name, method in methods.items():
        if not requests[name].scores:
            with config_key(f'methods.{name}'):
                require_effect(method, requests[name], own, others)
    _require_confidence(methods, batch)


def _require_probed_form(network: TappedModel, student: NetworkOutput) -> None:
    for tap, shape in network.probed.items():
        if tap in student.features:
            found = student.feature(tap).shape
            if len(found) != len(shape) or tuple(found[1:2]) != shape[1:2]:
                raise ConfigError(
                    network.key,
                    f'the tap {tap!r} returns {tuple(found)} in training, but {shape} in the probe',
                    'Tap a module that returns the same tensor in both.',
                    found=tap,
                )


def _first_images(output: NetworkOutput) -> NetworkOutput:
    """Return the features of two images: their shapes are all that counts."""
    return NetworkOutput(features={tap: one[:2] for tap, one in output.features.items()})


def refusal(network: TappedModel, inputs: Any, error: Exception) -> Exception:
    """Return the error of a network that does not run on a batch, with its key and its inputs.

    Errors that name a key already, and those about memory, are returned as they are.
    """
    if isinstance(error, (ConfigError, torch.OutOfMemoryError)):
        return error
    if isinstance(inputs, (list, tuple)):
        return several_views(network.key, inputs)
    return ConfigError(
        network.key,
        f'the network does not run on a batch of training: {first_line(error)}',
        'Train on inputs that it accepts, or use another network.',
        found=tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__,
    )


def _require_confidence(methods: Mapping[str, Method], batch: Batch) -> None:
    """Refuse soft targets of detectors none of which outputs a class at any location.

    Peers begin with the background everywhere: a warning says that they teach later.
    """
    found = [_confidence(one) for one in batch.teachers.values()]
    if not found or any(one is None or not one.numel() for one in found):
        return
    highest = max(float(one.max()) for one in found if one is not None)
    for name, method in methods.items():
        settings = [value for module in method.modules() for value in vars(module).values()]
        for locations in settings:
            if not isinstance(locations, LocationWeights) or highest >= locations.background:
                continue
            if locations.weighting == 'uniform':
                continue
            key = f'methods.{name}.locations.background'
            problem = (
                f'is {locations.background}, and no location of the first batch has such a '
                'probability of a class in any teacher: nothing would be distilled'
            )
            if not batch.frozen or not _has_objects(batch.data_samples):
                until = '' if batch.frozen else ' until its peers output classes'
                print_log(f'{key} {problem}{until}', logger='current', level=30)
                continue
            raise ConfigError(
                key,
                problem,
                "Check the teachers' weights and classes, lower it, or set weighting='uniform'.",
                found=round(highest, 6),
            )


def _confidence(teacher: NetworkOutput) -> Tensor | None:
    """Return the largest probability at each location that counts; None for whole images."""
    scores = teacher.scores
    if scores is None or scores.per_image:
        return None
    confidence = scores.confidence()
    return confidence if scores.valid is None else confidence[scores.valid]


def _has_objects(data_samples: Any) -> bool:
    samples = data_samples if isinstance(data_samples, (list, tuple)) else ()
    return any(len(getattr(sample, 'gt_instances', ())) > 0 for sample in samples)


def _require_rows(key: str, output: NetworkOutput, images: int | None) -> None:
    """Refuse class scores that have not one row for each image of the batch."""
    scores = output.scores
    if scores is None or images is None:
        return
    rows = scores.logits.shape[0]
    outside = [one for one in scores.rois if len(one) and int(one[:, 0].max()) >= images]
    if rows != images or outside:
        raise ConfigError(
            key,
            f'the class scores must have one row for each of the {images} images of the batch',
            'Use methods on taps alone, or register a score reader for the head.',
            found=tuple(scores.logits.shape),
        )
