"""MMPretrain's classifiers."""

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.score_readers import find_score_reader
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import ClassScores


class ClassifierAdapter(Adapter):
    """``ImageClassifier`` (backbone, neck, head) and ``TimmClassifier`` (one network, ``model``).

    The head runs as a module in training and in tensor mode alike, so a tap on it records the
    scores (N, C).
    """

    task = 'classification'
    no_scores = 'it has no head'

    def __init__(self, model: nn.Module) -> None:
        head = getattr(model, 'head', None)
        tap = 'head' if head is not None else 'model' if hasattr(model, 'model') else ''
        reader = find_score_reader(head)
        self._activation = (reader and reader.activation) or 'softmax'
        self.score_taps = {tap: reader.read if reader else _single_tensor} if tap else {}
        cls_head = sys.modules['mmpretrain.models.heads'].ClsHead  # any classifier imported it
        self.can_average = isinstance(head, cls_head) or (head is None and bool(tap))

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
        [logits] = next(iter(found.values()))
        return ClassScores.of_images(logits, self._activation)

    def labels(self, data_samples: Sequence[Any] | None) -> Tensor | None:
        if self.missing_labels(data_samples):
            return None
        assert data_samples is not None
        if 'gt_score' in data_samples[0]:  # one-hot, or mixed by Mixup and CutMix
            return torch.stack([sample.gt_score for sample in data_samples])
        if any(len(sample.gt_label) != 1 for sample in data_samples):
            return None  # several labels an image: there is no single class
        return torch.cat([sample.gt_label for sample in data_samples])

    def missing_labels(self, data_samples: Sequence[Any] | None) -> bool:
        return not data_samples or any(
            'gt_label' not in sample and 'gt_score' not in sample for sample in data_samples
        )

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


def _single_tensor(head: nn.Module, output: Any) -> list[Tensor]:
    while isinstance(output, (tuple, list)) and len(output) == 1:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ConfigError(
            '',
            f'class scores of {type(head).__name__} are not supported: it returns no single tensor',
            'Use methods on taps alone, or register a score reader for the head.',
            found=type(output).__name__,
        )
    return [output]
