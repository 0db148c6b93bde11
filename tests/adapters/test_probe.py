import random

import numpy as np
import pytest
import torch
from helpers import classification as tiny
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkd_plugin.adapters import host_of
from mmkd_plugin.adapters.probe import find_shape, probe
from mmkd_plugin.adapters.taps import FeatureTaps


def test_shapes_are_told_and_nothing_changes() -> None:
    model = tiny.network(tiny.classifier())
    model.train()
    model.backbone.bn1.eval()  # as norm_eval does
    before, modes = tiny.weights_of(model), [module.training for module in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    host = host_of(model)
    seen = probe(model, host, FeatureTaps(model, ['backbone.layer2', 'neck', 'head']), (3, 16, 16))
    assert seen.logits.shape == (1, 4)
    assert {tap: tuple(x.shape) for tap, x in seen.features.items()} == {
        'backbone.layer2': (1, 8, 8, 8),
        'neck': (1, 16),
        'head': (1, 4),
    }
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_modes_are_restored_after_a_failure() -> None:
    model = tiny.network(tiny.classifier()).train()
    with pytest.raises(RuntimeError):
        probe(model, host_of(model), FeatureTaps(model, ()), (5, 16, 16))
    assert all(module.training for module in model.modules())


class Fixed(BaseModel):
    """A network with a flat layer, for one size of image alone."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1)
        self.fc = nn.Linear(2 * side * side, 4)

    def forward(self, inputs: Tensor, data_samples: None = None, mode: str = 'tensor') -> Tensor:
        return self.fc(self.conv(inputs).flatten(1))


@pytest.mark.parametrize('side', [32, 64, 224])
def test_usual_sizes_are_found_and_the_channels_are_the_networks(side: int) -> None:
    model = Fixed(1, side)
    assert find_shape(model, host_of(model), None) == (1, side, side)


def test_an_unusual_size_must_be_stated() -> None:
    model = Fixed(3, 20)
    with pytest.raises(
        ValueError,
        match=r'^probe_shape: expected the \(channels, height, width\) .* tried .*\(3, 64, 64\)',
    ):
        find_shape(model, host_of(model), None)
    assert find_shape(model, host_of(model), (3, 20, 20)) == (3, 20, 20)
    with pytest.raises(ValueError, match=r'^probe_shape: .* tried \[\(3, 21, 21\)\]'):
        find_shape(model, host_of(model), (3, 21, 21))


@pytest.mark.parametrize('stated', [(3, 20), (3, 20, 0), (3, 20.0, 20), ()])
def test_what_is_no_shape(stated: tuple[int, ...]) -> None:
    model = Fixed(3, 20)
    with pytest.raises(
        ValueError, match=r'^probe_shape: expected \(channels, height, width\), got'
    ):
        find_shape(model, host_of(model), stated)


def test_a_transformers_own_size_comes_first() -> None:
    config = dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8),
            img_size=48,
            patch_size=16,
        ),
        head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=8),
    )
    model = tiny.network(config)
    assert find_shape(model, host_of(model), None) == (3, 48, 48)
