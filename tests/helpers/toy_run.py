"""The smallest run of a Runner: two separable clouds and a linear classifier."""

from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import Tensor, nn
from torch.utils.data import Dataset


@DATASETS.register_module()
class ToyClouds(Dataset):
    """64 points in 8 dimensions around two centres; every split draws its own."""

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
    """A linear classifier with dropout, so that training draws random numbers.

    Args:
        dropout: The rate.
        fail_in_step: Raise an error in this step, counted from 0.
    """

    def __init__(self, dropout: float = 0.3, fail_in_step: int | None = None) -> None:
        super().__init__()
        self.dropout = dropout
        self.steps_left = fail_in_step
        self.linear = nn.Linear(8, 2)

    def forward(self, points: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        if mode == 'loss' and self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise RuntimeError('this toy is made to fail')
        logits = self.linear(nn.functional.dropout(points, self.dropout, self.training))
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(logits, labels)}
        return list(zip(logits, labels, strict=True)) if mode == 'predict' else logits


@METRICS.register_module()
class ToyAccuracy(BaseMetric):
    """Percentage of points that are classified correctly."""

    default_prefix = 'toy'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [bool(logits.argmax() == label) for logits, label in data_samples]

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {'accuracy': 100 * sum(results) / len(results)}


CONFIG = """
custom_imports = dict(imports=['helpers.toy_run'])
model = dict(type='ToyLinear')
_data = dict(batch_size=16, num_workers=0, collate_fn=dict(type='default_collate'))
_seen = dict(type='DefaultSampler', shuffle=True)
_unseen = dict(type='DefaultSampler', shuffle=False)
train_dataloader = dict(dataset=dict(type='ToyClouds', split=0), sampler=_seen, **_data)
val_dataloader = dict(dataset=dict(type='ToyClouds', split=1), sampler=_unseen, **_data)
test_dataloader = dict(dataset=dict(type='ToyClouds', split=2), sampler=_unseen, **_data)
val_evaluator = test_evaluator = dict(type='ToyAccuracy')
train_cfg = dict(by_epoch=True, max_epochs=2)
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
param_scheduler = dict(type='StepLR', step_size=1, gamma=0.5)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
randomness = dict(seed=7)
"""


def write_config(path: Path, *lines: str) -> Path:
    """Write the config of a toy run, followed by more lines of Python, and return its path."""
    path.write_text('\n'.join([CONFIG, *lines]))
    return path
