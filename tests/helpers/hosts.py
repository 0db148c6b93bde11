"""Host models, plain and as the student of a distiller, for what hosts do to a model."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from helpers import classification as tiny
from mmkd_plugin.loading.build import build_network, network_config

with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of the hosts, about themselves
    from mmpretrain.models import ImageClassifier
    from mmpretrain.registry import MODELS as PRETRAIN_MODELS

#: How a student is trained: plain, by a distiller without, and with a method.
WAYS = ('plain', 'weight 0', 'weight 1')


@PRETRAIN_MODELS.register_module(force=True)
class Eventful(ImageClassifier):
    """A classifier with attributes of its own that hooks of the hosts read and write."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_lambda = 0.5
        self.epochs: list[int] = []
        self.seen: list[float] = []
        self.scale = nn.Parameter(torch.ones(3))

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Return 0 for the backbone, 1 for the scale, 2 for the head, of 4 layers."""
        first = name.partition('.')[0]
        return {'backbone': 0, 'scale': 1, 'head': 2}.get(first, 3), 4

    def loss(self, inputs: Tensor, data_samples: Any) -> dict[str, Tensor]:
        self.seen.append(self.loss_lambda)
        losses: dict[str, Tensor] = super().loss(inputs * self.scale[:, None, None], data_samples)
        return losses


def eventful(**changes: Any) -> dict[str, Any]:
    """Return the config of the smallest :class:`Eventful`."""
    return {**tiny.classifier(), 'type': 'mmpretrain.Eventful', **changes}


def build(way: str, student: Any, folder: Path, tap: str = 'backbone.layer3', seed: int = 0) -> Any:
    """Build a model one of ``WAYS``.

    Args:
        way: Plain, or as the student of a distiller with a method of weight 0 or 1.
        student: The config of the model.
        folder: For the teacher's checkpoint.
        tap: The map that the method compares.
        seed: The seed of the model's weights.
    """
    preprocessor = {} if 'data_preprocessor' in student else tiny.preprocessor()
    config = network_config(copy.deepcopy(student), 'student', data_preprocessor=preprocessor)
    if way == 'plain':
        torch.manual_seed(seed)
        return build_network(config, 'student')
    torch.manual_seed(99)
    file = folder / 'teacher.pth'
    torch.save(dict(state_dict=build_network(copy.deepcopy(config), 't').state_dict()), file)
    hint = dict(
        type='FeatureMethod',
        loss=dict(type='HintLoss'),
        connector=dict(type='HintRegressor'),
        pairs=[dict(student=tap, teacher=tap)],
        loss_weight=float(way == 'weight 1'),
    )
    torch.manual_seed(seed)
    return ROOT_MODELS.build(
        dict(
            type='mmkd_plugin.Distiller',
            student=config,
            teachers=[dict(name='t', model=copy.deepcopy(config), checkpoint=str(file))],
            methods=dict(hint=hint),
        )
    )


def student_of(model: Any) -> nn.Module:
    """Return the student of a distiller, or the plain model."""
    return model._modules.get('student', model)


def plain_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a mapping has of the student, under the names of a plain run."""
    if not any(name.startswith('student.') for name in values):
        return dict(values)
    return {
        name.removeprefix('student.'): value
        for name, value in values.items()
        if name.startswith('student.')
    }
