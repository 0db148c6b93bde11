"""The common part of MMDet's detectors."""

import inspect
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.errors import ConfigError


class DetectorAdapter(Adapter):
    """A detector with ``extract_feat``: its backbone, its neck and its dense heads can be tapped.

    A run extracts the features. Then it calls the other parts that are tapped, each on the
    features, as the training forward does.

    Args:
        head: The part that classifies; it knows the number of classes.
    """

    task = 'detection'

    def __init__(self, head: nn.Module | None = None) -> None:
        self.num_classes: int | None = getattr(head, 'num_classes', None)

    def run(
        self,
        model: nn.Module,
        inputs: Any,
        scores: bool,
        rois: Sequence[Tensor] = (),
        paths: Collection[str] = (),
        data_samples: Any = None,
    ) -> None:
        self.run_parts(model, inputs, paths, data_samples)

    def run_parts(
        self, model: nn.Module, inputs: Any, paths: Collection[str], data_samples: Any = None
    ) -> Any:
        """Extract the features, run the other parts that are tapped, and return the features.

        Raises:
            ConfigError: If a tapped part needs more than features and data samples.
        """
        parts = list(dict.fromkeys(path.partition('.')[0] for path in paths))
        ran: set[str] = set()
        handles = []
        for path in {*paths, *parts}:

            def note(*_: Any, path: str = path) -> None:
                ran.add(path.partition('.')[0])

            handles.append(model.get_submodule(path).register_forward_hook(note))
        try:
            features = model.extract_feat(inputs)  # type: ignore[operator]
        finally:
            for handle in handles:
                handle.remove()
        samples = data_samples
        for part in parts:
            if part in ran or part in ('backbone', 'neck'):
                continue
            self.require_reach(model, part)
            module: Any = getattr(model, part)
            if not needed_arguments(module.forward):
                module(features)
                continue
            samples = self.blank_samples(inputs) if samples is None else samples
            module(features, samples)
        return features

    def require_reach(self, model: nn.Module, path: str) -> None:
        """Refuse a tap of a module that a run for taps cannot call.

        Raises:
            ConfigError: Its key is empty: the caller knows the network.
        """
        if reason := self.obstacle(model, path):
            parts = ', '.join(
                name
                for name, _ in model.named_children()
                if name != 'data_preprocessor' and not self.obstacle(model, name)
            )
            raise ConfigError(
                '',
                f'{path} of {type(model).__name__} cannot be tapped: {reason}',
                f'Tap modules below {parts}; tools/inspect_taps.py lists them.',
                found=path,
            )

    def obstacle(self, model: nn.Module, path: str) -> str:
        part = path.partition('.')[0]
        if part in ('backbone', 'neck'):
            return ''
        module = getattr(model, part)
        if type(module).forward is nn.Module.forward:
            return 'it has no forward of its own'
        more = [
            name for name in needed_arguments(module.forward) if not name.endswith('data_samples')
        ]
        return f'it needs {", ".join(more)} beside the features of the images' if more else ''

    def blank_samples(self, inputs: Tensor) -> Any:
        structures: Any = sys.modules['mmdet.structures']  # any detector imported it
        instance_data: Any = sys.modules['mmengine.structures'].InstanceData
        size = tuple(inputs.shape[-2:])
        samples = []
        for index in range(len(inputs)):
            shapes = dict.fromkeys(
                ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size
            )
            sample = structures.DetDataSample(
                metainfo=dict(shapes, img_id=index, scale_factor=(1.0, 1.0))
            )
            for name in ('gt_instances', 'ignored_instances'):
                nothing = instance_data(
                    bboxes=inputs.new_zeros(0, 4),
                    labels=torch.zeros(0, dtype=torch.long, device=inputs.device),
                )
                setattr(sample, name, nothing)
            samples.append(sample)
        return samples

    def labels(self, data_samples: Sequence[Any] | None) -> Tensor | None:
        """Return which classes are in each image, (N, C) of 0 and 1: the labels of whole images."""
        if self.num_classes is None or self.missing_labels(data_samples):
            return None
        assert data_samples is not None
        labels = [sample.gt_instances.labels for sample in data_samples]
        present = torch.zeros(len(labels), self.num_classes, device=labels[0].device)
        for row, found in zip(present, labels, strict=True):
            row[found] = 1.0
        return present

    def object_boxes(self, data_samples: Sequence[Any] | None) -> list[Tensor] | None:
        if self.missing_labels(data_samples):
            return None
        assert data_samples is not None
        found = [sample.gt_instances.bboxes for sample in data_samples]
        return [getattr(boxes, 'tensor', boxes) for boxes in found]

    def image_areas(self, data_samples: Sequence[Any] | None) -> list[tuple[int, int]] | None:
        if not data_samples or any('pad_shape' not in sample for sample in data_samples):
            return None
        return [(int(one.pad_shape[0]), int(one.pad_shape[1])) for one in data_samples]

    def missing_labels(self, data_samples: Sequence[Any] | None) -> bool:
        return not data_samples or any('gt_instances' not in sample for sample in data_samples)

    def in_classes(self, predictions: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
        """Rename the classes of boxes; boxes of other classes are removed."""
        for sample in predictions:
            labels = sample.pred_instances.labels
            renamed = torch.full_like(labels, -1)
            for index, own in enumerate(indices):
                renamed[labels == own] = index
            sample.pred_instances.labels = renamed
            sample.pred_instances = sample.pred_instances[renamed >= 0]
        return predictions


class SeveralDetectorsAdapter(Adapter):
    """A model that trains detectors inside it: semi-supervised detectors, trackers.

    Its batches have branches, and its detectors run once for each: no call is the one to tap.
    """

    task = 'detection'

    def __init__(self, model: nn.Module, inner: Sequence[str]) -> None:
        names = ', '.join(inner)
        self.no_taps = self.no_scores = (
            f'{type(model).__name__} runs its detectors ({names}) on batches of several branches '
            'or frames, so no single forward can be distilled'
        )


def needed_arguments(function: Callable[..., Any]) -> list[str]:
    """Return the arguments without default that a function has after the first."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty][1:]
