"""MMPretrain's classifiers."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.base import Host
from mmkd_plugin.outputs import Knowledge


class ClassifierHost(Host):
    """``ImageClassifier`` (backbone, neck, head) and ``TimmClassifier`` (a whole network under ``model``).

    Their heads are called as modules in training and in tensor mode alike, so a tap on the head gets the scores (N, C).
    """

    task = 'classification'

    def __init__(self, model: nn.Module) -> None:
        head = getattr(model, 'head', None)
        self.score_taps = (
            ('head',) if head is not None else ('model',) if hasattr(model, 'model') else ()
        )
        single = sys.modules[
            'mmpretrain.models.heads'
        ].ClsHead  # imported by the package of any classifier
        self.can_average = isinstance(head, single) or (head is None and bool(self.score_taps))

    def run(self, model: nn.Module, inputs: Any, scores: bool, rois: Sequence[Tensor] = ()) -> None:
        if scores or not hasattr(model, 'backbone'):
            model(inputs, mode='tensor')
        else:
            model.extract_feat(inputs)  # type: ignore[operator]

    def knowledge(
        self,
        model: nn.Module,
        features: Mapping[str, Tensor],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> Knowledge:
        """The tokens (N, L, C) of a vision transformer become the map (N, C, H, W) that they stand for; others stay as they are."""
        backbone = getattr(model, 'backbone', None)
        if hasattr(backbone, 'patch_embed'):
            extra = getattr(backbone, 'num_extra_tokens', 0)
            features = {
                tap: _as_map(value, extra, inputs.shape[2:]) for tap, value in features.items()
            }
        return Knowledge(features.get(self.score_taps[0]) if self.score_taps else None, features)

    def put_back(self, output: Tensor, feature: Tensor) -> Tensor:
        """A map becomes tokens again where it was made of tokens; class and other extra tokens stay as they are in ``output``."""
        if output.ndim != 3 or feature.ndim != 4:
            return feature
        patches = feature.flatten(2).transpose(1, 2)
        return torch.cat([output[:, : output.shape[1] - patches.shape[1]], patches], dim=1)

    def labels(self, data_samples: Sequence[Any] | None) -> Tensor | None:
        if self.missing_labels(data_samples):
            return None
        assert data_samples is not None
        if 'gt_score' in data_samples[0]:  # one-hot, or mixed by Mixup and CutMix
            return torch.stack([sample.gt_score for sample in data_samples])
        if any(len(sample.gt_label) != 1 for sample in data_samples):
            return None  # several labels an image: no single class to ask for
        return torch.cat([sample.gt_label for sample in data_samples])

    def missing_labels(self, data_samples: Sequence[Any] | None) -> bool:
        return not data_samples or any(
            'gt_label' not in s and 'gt_score' not in s for s in data_samples
        )

    def average(self, predictions: Sequence[Sequence[Any]]) -> list[Any]:
        """The mean of their class probabilities; heads that give several labels an image have none."""
        averaged = []
        for same in zip(*predictions, strict=True):
            score = torch.stack([sample.pred_score for sample in same]).mean(dim=0)
            averaged.append(
                same[0]
                .clone()
                .set_pred_score(score)
                .set_pred_label(score.argmax(dim=0, keepdim=True))
            )
        return averaged

    def in_classes(self, predictions: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
        for sample in predictions:
            score = sample.pred_score[list(indices)]
            sample.set_pred_score(score / score.sum()).set_pred_label(
                score.argmax(dim=0, keepdim=True)
            )
        return predictions


def _as_map(tokens: Tensor, extra: int, size: Sequence[int]) -> Tensor:
    """Put the tokens of patches in their rows; class and other extra tokens come first, and are no places."""
    if tokens.ndim != 3:
        return tokens
    count = tokens.shape[1] - extra
    height = round((count * size[0] / size[1]) ** 0.5)
    if height < 1 or count % height:
        return tokens
    return tokens[:, extra:].transpose(1, 2).unflatten(2, (height, count // height))
