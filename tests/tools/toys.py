"""The smallest things that a Runner trains: two separable clouds and a linear classifier. Configs import this file."""

from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import Tensor, nn
from torch.utils.data import Dataset


@DATASETS.register_module()
class ToyClouds(Dataset):
    """64 points in 8 dimensions around two centres; another view for every split."""

    def __init__(self, split: int = 0) -> None:
        generator = torch.Generator().manual_seed(split)
        self.labels = torch.arange(64) % 2
        self.points = torch.randn(64, 8, generator=generator) + self.labels[:, None] * 0.7
        self.metainfo = {'classes': ('a', 'b')}

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index], self.labels[index]


@MODELS.register_module()
class ToyLinear(BaseModel):
    """Linear, with dropout so that training draws random numbers."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        if fail:
            raise RuntimeError('this toy was told to fail')
        self.linear = nn.Linear(8, 2)

    def forward(self, points: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        logits = self.linear(nn.functional.dropout(points, 0.3, self.training))
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(logits, labels)}
        return list(zip(logits, labels, strict=True)) if mode == 'predict' else logits


@METRICS.register_module()
class ToyAccuracy(BaseMetric):
    """Per cent of points that are classified rightly."""

    default_prefix = 'toy'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [bool(logits.argmax() == label) for logits, label in data_samples]

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {'accuracy': 100 * sum(results) / len(results)}
