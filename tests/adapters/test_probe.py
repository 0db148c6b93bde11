import random
from typing import Any

import numpy as np
import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkd_plugin.adapters import Probe, TappedModel, TeacherProbe, find_shape
from mmkd_plugin.adapters.probe import dry_run, probe_network
from mmkd_plugin.outputs import NetworkOutput


def tapped(model: nn.Module, *taps: str, scores: bool = False) -> TappedModel:
    net = TappedModel(model, 'student')
    net.request(taps, scores)
    return net


def test_dry_run_shows_shapes_and_changes_nothing() -> None:
    model = tiny.network(tiny.classifier())
    model.train()
    model.backbone.bn1.eval()  # as norm_eval does
    before, modes = tiny.weights_of(model), [module.training for module in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    net = tapped(model, 'backbone.layer2', 'neck', 'head', scores=True)
    output = dry_run(net, (3, 16, 16))
    assert output.scores.logits.shape == (2, 1, 4)
    assert {tap: tuple(x.shape) for tap, x in output.features.items()} == {
        'backbone.layer2': (2, 8, 8, 8),
        'neck': (2, 16),
        'head': (2, 4),
    }
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert not any(x.requires_grad for x in output.features.values())


def test_dry_run_of_a_network_that_draws_keeps_the_random_state() -> None:
    model = Fixed(1, 32, noise=True)
    state = torch.get_rng_state()
    dry_run(tapped(model), (1, 32, 32))
    assert model.ran == 1
    assert torch.equal(state, torch.get_rng_state())


class Growing(nn.Module):
    """It takes in a part of another module in its forward, as DDQ's decoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.body = nn.Identity()

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Tensor:
        self.body.branch = self.head
        self.body.register_buffer('grid', torch.zeros(2))
        self.body.scale = nn.Parameter(torch.ones(1))
        return self.head(inputs.mean((2, 3)))


@pytest.mark.parametrize('training', [False, True])
def test_dry_run_removes_what_a_forward_adds_to_the_module_tree(training: bool) -> None:
    network = TappedModel(Growing(), 'student')
    network.request(['head'])
    names = list(network.model.state_dict())
    dry_run(network, (3, 4, 4), training)
    assert list(network.model.state_dict()) == names
    assert list(network.model.body.children()) == []


def test_dry_run_failure_restores_the_modes() -> None:
    model = tiny.network(tiny.classifier()).train()
    with pytest.raises(RuntimeError):
        dry_run(tapped(model), (5, 16, 16))
    assert all(module.training for module in model.modules())


def test_probe_network_that_does_not_accept_the_shape_is_refused() -> None:
    model = tiny.network(tiny.classifier())
    found = probe_network(tapped(model, 'neck'), (3, 16, 16)).feature('neck').shape
    assert found == (2, 16)
    with raises_config_error('student', ANY, '(5, 16, 16)', fix='Set probe_shape'):
        probe_network(tapped(model), (5, 16, 16))


class Fixed(BaseModel):
    """A network with a flat layer, for one size of image alone."""

    def __init__(self, channels: int, side: int, noise: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1)
        self.fc = nn.Linear(2 * side * side, 4)
        self.noise, self.ran = noise, 0

    def forward(self, inputs: Tensor, data_samples: None = None, mode: str = 'tensor') -> Tensor:
        self.ran += 1
        scores = self.fc(self.conv(inputs).flatten(1))
        return scores + torch.randn(4) if self.noise else scores


@pytest.mark.parametrize('side', [32, 64, 224])
def test_find_shape_tries_usual_sizes_with_the_channels_of_the_network(side: int) -> None:
    assert find_shape(tapped(Fixed(1, side)), None) == (1, side, side)


def test_find_shape_unusual_size_must_be_stated() -> None:
    net = tapped(Fixed(3, 20))
    tried = [(side, side) for side in (64, 224, 32, 299, 256, 384, 448, 512, 28)]
    tried.append((256, 128))
    with raises_config_error('probe_shape', tried, 'student', fix='(channels, height, width)'):
        find_shape(net, None)
    assert find_shape(net, (3, 20, 20)) == (3, 20, 20)
    with raises_config_error('probe_shape', (3, 21, 21), 'student'):
        find_shape(net, (3, 21, 21))


@pytest.mark.parametrize('stated', [(3, 20), (3, 20, 0), (3, 20.0, 20), (), 20, '320'])
def test_find_shape_anything_but_three_positive_integers_is_refused(stated: Any) -> None:
    with raises_config_error('probe_shape', stated, '(channels, height, width)'):
        find_shape(tapped(Fixed(3, 20)), stated)


def test_find_shape_tries_the_own_size_of_a_transformer_first() -> None:
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
    assert find_shape(tapped(tiny.network(config)), None) == (3, 48, 48)


@pytest.mark.parametrize('conv_channels', [None, 4])
def test_find_shape_of_a_network_of_linear_layers_has_its_channels(
    conv_channels: int | None,
) -> None:
    shape = dict(in_channels=2, input_size=(30, 40), conv_channels=conv_channels)
    config = dict(
        type='ImageClassifier',
        backbone=dict(type='mmkd_plugin.ShallowMimicNet', hidden_channels=8, **shape),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=8),
    )
    assert find_shape(tapped(tiny.network(config)), None) == (2, 30, 40)


def test_find_shape_ignores_the_taps_of_the_network() -> None:
    """A tap that does not fit is an error of its own, and no reason to try other sizes."""
    model = Fixed(3, 32)
    assert find_shape(tapped(model, 'conv[3]'), None) == (3, 32, 32)


def test_probe_feature_reads_one_tap() -> None:
    probe = Probe('student', NetworkOutput(features={'neck': torch.zeros(1, 5)}))
    assert probe.feature('neck').shape == (1, 5)
    with pytest.raises(KeyError, match="'head' was not requested"):
        probe.feature('head')


NETWORK = nn.ModuleDict(
    {
        'bn': nn.BatchNorm2d(4),
        'bare': nn.BatchNorm2d(4, affine=False),
        'conv': nn.Conv2d(4, 4, 1),
        'relu': nn.ReLU(),
    }
)


def probe_of(sha256: str | None) -> TeacherProbe:
    return TeacherProbe('teachers[0]', NetworkOutput(), NETWORK, sha256)


def test_teacher_probe_norm_gives_scale_and_shift_of_a_frozen_teacher() -> None:
    probe = probe_of('0' * 64)
    assert probe.frozen
    scale, shift = probe.norm('bn', 'norm')
    assert scale is NETWORK['bn'].weight and shift is NETWORK['bn'].bias


@pytest.mark.parametrize(
    ('path', 'mentions'),
    [('conv', 'Conv2d'), ('relu', 'ReLU'), ('bare', 'BatchNorm2d'), ('bn2', 'no module')],
)
def test_teacher_probe_norm_other_layer_is_refused(path: str, mentions: str) -> None:
    with raises_config_error('norm', path, mentions):
        probe_of('0' * 64).norm(path, 'norm')


def test_teacher_probe_norm_of_a_peer_is_refused() -> None:
    assert not probe_of(None).frozen
    with raises_config_error('norm', 'bn', 'still learns', fix='mutual learning'):
        probe_of(None).norm('bn', 'norm')
