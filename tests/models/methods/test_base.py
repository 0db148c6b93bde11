from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.classification import built, output
from helpers.errors import raises_config_error
from torch import Tensor, nn

from mmkd_plugin.adapters import Probe, TeacherProbe
from mmkd_plugin.models.methods import Method, Requests
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module(force=True)
class MeanOfMaps(Method):
    """A method of one's own: a linear layer from the student's mean map to the first teacher's."""

    loss_weight: float

    def __init__(self, loss_weight: float = 1.0, labels: bool = False) -> None:
        super().__init__(loss_weight=loss_weight)
        self.uses_labels = labels
        self.received: list[Tensor | None] = []

    def requests(self, num_teachers: int) -> Requests:
        teachers = (('backbone.layer3',),) + ((),) * (num_teachers - 1)
        return Requests(('backbone.layer2',), teachers, labels=self.uses_labels)

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        sizes = student.feature('backbone.layer2'), teachers[0].feature('backbone.layer3')
        self.connector = nn.Linear(*(size.shape[1] for size in sizes))

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        self.received.append(labels)
        own = self.connector(student.feature('backbone.layer2').mean(dim=(2, 3)))
        target = teachers[0].feature('backbone.layer3').mean(dim=(2, 3))
        gap = (own - target).square().mean()
        return {'loss_mean': self.loss_weight * gap, 'gap': gap.detach()}


class Weighted(MeanOfMaps):
    def __init__(self, **weights: Any) -> None:
        Method.__init__(self, **weights)


def test_method_of_requests_build_and_forward_trains_in_a_distiller(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(mine=dict(type='MeanOfMaps', loss_weight=3.0)))
    before, optimizer = tiny.weights_of(model), torch.optim.SGD(model.parameters(), lr=0.1)
    losses = tiny.losses_of(model)
    assert {name for name in losses if name.startswith('mine')} == {'mine.loss_mean', 'mine.gap'}
    torch.testing.assert_close(losses['mine.loss_mean'], 3 * losses['mine.gap'])
    losses['mine.loss_mean'].backward()
    optimizer.step()
    moved = {name for name, p in tiny.parameters_of(model) if not torch.equal(p, before[name])}
    assert {'methods.mine.connector.weight', 'methods.mine.connector.bias'} <= moved
    assert 'student.backbone.layer1.0.conv1.weight' in moved
    assert not any(name.startswith('student.head') for name in moved), 'the loss taps layer2'
    teachers = [p for one in model.teachers for p in one.model.parameters()]
    assert not any(p.grad is not None for p in teachers)
    assert tiny.losses_of(model)['mine.gap'] < losses['mine.gap']


@pytest.mark.parametrize('labels', [False, True])
def test_labels_are_received_if_they_are_requested(labels: bool, tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(mine=dict(type='MeanOfMaps', labels=labels)))
    tiny.losses_of(model)
    [received] = model.methods['mine'].received
    assert (None if received is None else received.tolist()) == (
        [0, 1, 2, 3, 0, 1, 2, 3] if labels else None
    )


def test_weights_become_attributes_and_one_above_zero_makes_the_method_active() -> None:
    method = Weighted(kd_weight=2, hint_weight=0)
    assert (method.kd_weight, method.hint_weight) == (2.0, 0.0)
    assert method.active
    assert not Weighted(kd_weight=0, hint_weight=0.0).active
    assert Weighted().active, 'a method without weights'


@pytest.mark.parametrize('value', [-1, -0.1, float('nan'), float('inf'), '1', None, True])
def test_weight_that_is_no_finite_number_from_zero_is_refused(value: Any) -> None:
    with raises_config_error('hint_weight', value, 'must be a number >= 0'):
        Weighted(kd_weight=1.0, hint_weight=value)


@pytest.mark.parametrize('missing', ['requests', 'forward'])
def test_method_without_requests_or_forward_cannot_be_made(missing: str) -> None:
    members = {'requests': MeanOfMaps.requests, 'forward': MeanOfMaps.forward}
    del members[missing]
    with pytest.raises(TypeError, match=missing):
        type('Incomplete', (Method,), members)()


def test_defaults_build_nothing_and_need_nothing() -> None:
    class Plain(Method):
        def requests(self, num_teachers: int) -> Requests:
            return Requests()

        def forward(self, *_: Any) -> dict[str, Tensor]:
            return {}

    method = built(Plain(), output(), [output()])
    assert not list(method.parameters()) and method.auxiliary is None
    assert Requests() == Requests((), (), scores=False, labels=False, needs_labels=False)
