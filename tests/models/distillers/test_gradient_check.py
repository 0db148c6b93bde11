"""A loss that cannot train the student is refused in the first batch, before any update."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmkd_plugin.engine import PeerOptimWrappers
from mmkd_plugin.models.methods import Method, Requests
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS

#: MMPretrain's with_cp leaves it to torch's default.
pytestmark = pytest.mark.filterwarnings('ignore:torch.utils.checkpoint')
RESNET = dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4)


def resnet(**backbone: Any) -> dict[str, Any]:
    """Return a stock ResNet whose stages can be frozen or recomputed."""
    return dict(
        type='ImageClassifier',
        backbone={**RESNET, **backbone},
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=tiny.CLASSES, in_channels=32, topk=(1,)),
    )


def hint(tap: str, **changes: Any) -> dict[str, Any]:
    return dict(type='Hint', pairs=[dict(student=tap, teacher='backbone.layer2')], **changes)


def distiller(folder: Path, student: Mapping[str, Any], **methods: Any) -> Any:
    return tiny.distiller(folder, student=student, methods=methods).train()


@pytest.mark.parametrize(
    ('backbone', 'tap', 'reason'),
    [
        (dict(frozen_stages=2), 'backbone.layer1', 'frozen_stages=2'),
        (dict(frozen_stages=2), 'backbone.layer2.1', 'frozen_stages=2'),
        (dict(frozen_stages=4), 'backbone', 'frozen_stages=4'),
        (dict(with_cp=True), 'backbone.layer2.0.conv1', 'with_cp=True'),
    ],
)
def test_tap_without_gradient_is_refused(
    tmp_path: Path, backbone: dict[str, Any], tap: str, reason: str
) -> None:
    model = distiller(tmp_path, resnet(**backbone), hint=hint(tap))
    with raises_config_error('methods.hint', tap, reason, fix='Tap'):
        tiny.losses_of(model)


@pytest.mark.parametrize(
    ('backbone', 'tap'),
    [
        (dict(frozen_stages=2), 'backbone.layer3'),
        (dict(with_cp=True), 'backbone.layer2'),
        (dict(with_cp=True), 'backbone.layer2.0'),
        (dict(), 'backbone.layer1.0.conv1'),
    ],
)
def test_tap_with_gradient_is_accepted(tmp_path: Path, backbone: dict[str, Any], tap: str) -> None:
    model = distiller(tmp_path, resnet(**backbone), hint=hint(tap))
    tiny.losses_of(model)['hint.loss_hint'].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.student.parameters())


def test_linear_probe_can_be_trained_by_soft_targets_and_not_by_hints(tmp_path: Path) -> None:
    frozen = resnet(frozen_stages=4)
    kd = dict(type='SoftTarget', weighting=dict(type='LatentTeacherWeighting'))
    losses = tiny.losses_of(distiller(tmp_path, frozen, kd=kd))
    assert losses['kd.loss_kd'].requires_grad
    with raises_config_error('methods.hint', 'neck'):
        pairs = [dict(student='neck', teacher='neck')]
        tiny.losses_of(distiller(tmp_path, frozen, hint=dict(type='Hint', pairs=pairs)))


def test_frozen_head_is_refused_for_soft_targets(tmp_path: Path) -> None:
    model = distiller(tmp_path, resnet(), kd=dict(type='SoftTarget'))
    model.student.requires_grad_(False)
    with raises_config_error('methods.kd', 'ImageClassifier', fix='Unfreeze'):
        tiny.losses_of(model)


@ROOT_MODELS.register_module(force=True)
class OwnBackward(nn.Module):
    """A backbone whose last layer has a backward pass of its own, which ends there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.cut = Cut()

    def init_weights(self) -> None:
        pass

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.cut(self.conv(inputs)),)


class Cut(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.detach().requires_grad_() * 2


def test_gradient_that_ends_at_a_tensor_that_is_no_parameter_is_refused(tmp_path: Path) -> None:
    student = resnet()
    student['backbone'] = dict(type='OwnBackward')
    student['head']['in_channels'] = 4
    model = distiller(tmp_path, student, hint=hint('backbone.cut'))
    with raises_config_error('methods.hint', 'backbone.cut'):
        tiny.losses_of(model)


@MODELS.register_module(force=True)
class Detached(Method):
    """A method of a user with a mistake: it detaches the student."""

    loss_weight: float

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight=loss_weight)
        self.scale = nn.Parameter(torch.ones(()))

    def requests(self, num_teachers: int) -> Requests:
        return Requests(student=('neck',))

    def forward(
        self, student: NetworkOutput, teachers: Any, labels: Tensor | None
    ) -> dict[str, Tensor]:
        own = student.feature('neck').detach().square().mean()
        return dict(loss_own=self.loss_weight * self.scale * own)


def test_method_that_detaches_the_student_is_refused(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(own=dict(type='Detached')))
    with raises_config_error('methods.own', ['own.loss_own'], 'depends on a parameter'):
        tiny.losses_of(model)


def test_peer_whose_tap_has_no_gradient_is_refused_before_its_update() -> None:
    config = tiny.mutual_config(methods=dict(hint=hint('backbone.layer1')))
    config['methods']['hint']['pairs'][0]['teacher'] = 'backbone.layer1'
    config['peers'][0]['model'] = resnet(frozen_stages=1)
    model = ROOT_MODELS.build(config).train()
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=0.1)))(model)
    before = tiny.weights_of(model)
    with raises_config_error('methods.hint', 'backbone.layer1', 'frozen_stages=1'):
        model.train_step(tiny.batch_of(), wrappers)
    names = tiny.differing(before, model.state_dict())
    assert not [name for name in names if name.endswith(('conv1.weight', 'fc.weight'))]


def test_losses_without_gradients_leave_the_check_to_the_next_batch(tmp_path: Path) -> None:
    model = distiller(tmp_path, resnet(frozen_stages=2), hint=hint('backbone.layer1'))
    with torch.no_grad():
        tiny.losses_of(model)
    with raises_config_error('methods.hint', ANY):
        tiny.losses_of(model)
