"""MMPretrain's classifiers."""

import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.classifier_heads import (
    activation_of,
    classes_of,
    loss_modules,
    needs_target,
)
from mmkd_plugin.adapters.layout import Layout
from mmkd_plugin.adapters.score_readers import Read, find_score_reader
from mmkd_plugin.adapters.token_grid import token_layout
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import ClassScores

#: Classes of the trial by which the activation is measured, where their number is unknown.
_CLASSES = 5


class ClassifierAdapter(Adapter):
    """``ImageClassifier`` (backbone, neck, head) and ``TimmClassifier`` (one network, ``model``).

    The head runs as a module in training and in tensor mode alike, so a tap on it records the
    scores (N, C).
    """

    task = 'classification'
    no_scores = 'it has no head'

    def __init__(self, model: nn.Module) -> None:
        head = getattr(model, 'head', None)
        path = 'head' if head is not None else 'model' if hasattr(model, 'model') else ''
        owner = self._owner = model if head is None else head
        self.num_classes = classes_of(model if head is None else head)
        reader = find_score_reader(head)
        stated = reader and reader.activation
        measured = activation_of(owner, self.num_classes or _CLASSES) if path else None
        self._activation = stated or measured or 'softmax'
        self._losses = {} if stated else loss_modules(owner)
        cls_head = sys.modules['mmpretrain.models.heads'].ClsHead  # any classifier imported it
        self.can_average = isinstance(head, cls_head) or (head is None and bool(path))
        if not path:
            return
        if reader is None and head is not None and needs_target(head):
            self.no_scores = (
                f'{type(head).__name__} receives more than the features, so its output in training '
                'can depend on the label'
            )
            return
        read = reader.read if reader else _single_tensor
        tap = f'{path}.{reader.tap}' if reader and reader.tap else path
        # The head is bound: the tapped module can be a part of it.
        self.score_taps = {tap: partial(_read_of, owner, read)}

    def run(
        self,
        model: nn.Module,
        inputs: Any,
        scores: bool,
        rois: Sequence[Tensor] = (),
        paths: Collection[str] = (),
        data_samples: Any = None,
    ) -> None:
        model(inputs, mode='tensor')  # a run for taps alone stops at the deepest, maybe in the head

    def class_scores(
        self,
        model: nn.Module,
        found: Mapping[str, list[Tensor]],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> ClassScores | None:
        self._require_same_activation()
        [logits] = next(iter(found.values()))
        classes = getattr(self._owner, 'num_classes', None)
        if isinstance(classes, int) and 0 < classes != logits.shape[-1]:
            raise ConfigError(
                '',
                f'class scores of {type(self._owner).__name__} are not supported: in tensor mode '
                f'it does not return those of its {classes} classes',
                'Use methods on taps alone, or register a score reader for the head.',
                found=tuple(logits.shape),
            )
        return ClassScores.of_images(logits, self._activation)

    def _require_same_activation(self) -> None:
        """Refuse a loss of another activation that a hook has set, such as SwitchRecipeHook."""
        if all(getattr(self._owner, name) is loss for name, loss in self._losses.items()):
            return
        self._losses = loss_modules(self._owner)
        found = activation_of(self._owner, self.num_classes or _CLASSES)
        if found not in (None, self._activation):
            raise ConfigError(
                '',
                f'a hook replaced the loss by one of a {found}, but the class scores of the run '
                f'are compared under a {self._activation}',
                'Switch to a loss of the same activation, or use methods on taps alone.',
                found=', '.join(type(loss).__name__ for loss in self._losses.values()),
            )

    def known_layout(
        self, model: nn.Module, tap: str, shape: Sequence[int], size: Sequence[int]
    ) -> Layout | None:
        return token_layout(model, shape, size)

    def labels(self, data_samples: Sequence[Any] | None) -> Tensor | None:
        """Return the labels of a batch.

        Under a softmax they are class indices (N,), or probabilities (N, C) after Mixup and CutMix.
        Under a sigmoid they are (N, C) with 1 for each class of the image.
        """
        if not data_samples or not all(_is_labelled(sample) for sample in data_samples):
            return None
        if 'gt_score' in data_samples[0]:  # one-hot, mixed by Mixup and CutMix, or several classes
            scores = torch.stack([sample.gt_score for sample in data_samples])
            if self._activation == 'sigmoid':
                return scores.float()
            return scores / scores.sum(dim=1, keepdim=True).clamp_min(1e-12)
        labels = [getattr(one.gt_label, 'label', one.gt_label) for one in data_samples]  # ReID's
        if self._activation == 'softmax' and all(len(one) == 1 for one in labels):
            return torch.cat(labels)
        if self.num_classes is None:
            return None
        present = torch.zeros(len(labels), self.num_classes, device=labels[0].device)
        for row, found in zip(present, labels, strict=True):
            row[found.long()] = 1.0
        if self._activation == 'sigmoid':
            return present
        return present / present.sum(dim=1, keepdim=True).clamp_min(1.0)

    def missing_labels(self, data_samples: Sequence[Any] | None) -> bool:
        if not data_samples:
            return True
        return not all(_is_labelled(sample) or _has_tasks(sample) for sample in data_samples)

    def average(self, predictions: Sequence[Sequence[Any]]) -> list[Any]:
        """Average the class probabilities."""
        averaged = []
        for same in zip(*predictions, strict=True):
            score = torch.stack([sample.pred_score for sample in same]).mean(dim=0)
            label = score.argmax(dim=0, keepdim=True)
            averaged.append(same[0].clone().set_pred_score(score).set_pred_label(label))
        return averaged

    def in_classes(self, predictions: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
        for sample in predictions:
            score = sample.pred_score[list(indices)]
            label = score.argmax(dim=0, keepdim=True)
            sample.set_pred_score(score / score.sum()).set_pred_label(label)
        return predictions


class RetrieverAdapter(ClassifierAdapter):
    """``ImageToImageRetriever``: an encoder, and the head of a classifier that trains it.

    Its tensor mode runs the encoder alone, and it predicts similarities to a gallery. Its class
    scores are those of the head.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.can_average = False  # a prediction has one similarity for each image of a gallery

    def run(
        self,
        model: nn.Module,
        inputs: Any,
        scores: bool,
        rois: Sequence[Tensor] = (),
        paths: Collection[str] = (),
        data_samples: Any = None,
    ) -> None:
        features = model(inputs, mode='tensor')
        head = getattr(model, 'head', None)
        if head is not None and (scores or any(path.startswith('head') for path in paths)):
            head(features)


def _read_of(owner: nn.Module, read: Read, _: nn.Module, output: Any) -> list[Tensor]:
    return read(owner, output)


def _single_tensor(head: nn.Module, output: Any) -> list[Tensor]:
    """Read a head that returns the logits (N, C), alone or in a tuple, or as ``output.logits``.

    Raises:
        ConfigError: If it returns anything else; the caller knows the network.
    """
    while isinstance(output, (tuple, list)) and len(output) == 1:
        output = output[0]
    output = getattr(output, 'logits', output)  # as HuggingFace's models return them
    if not isinstance(output, Tensor):
        raise ConfigError(
            '',
            f'class scores of {type(head).__name__} are not supported: it returns no single tensor',
            'Use methods on taps alone, or register a score reader for the head.',
            found=type(output).__name__,
        )
    return [output]


def _is_labelled(sample: Any) -> bool:
    return 'gt_label' in sample or 'gt_score' in sample


def _has_tasks(sample: Any) -> bool:
    """Whether a sample holds the labels of several tasks, each in a sample of its own."""
    return any(_is_labelled(one) for one in sample.values() if hasattr(one, 'metainfo'))
