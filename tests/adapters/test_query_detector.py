from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from helpers.forbid import forbid
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

from mmkd_plugin.adapters import DetectorAdapter, QueryDetectorAdapter, TappedModel, Teacher

FAMILIES = ('detr', 'deformable_detr', 'dino')
HINT = dict(type='Hint', pairs=[dict(student='neck[0]', teacher='neck[0]')])


@pytest.mark.parametrize('family', FAMILIES)
def test_stock_detector_takes_a_step_as_student_and_as_teacher(family: str, tmp_path: Path) -> None:
    model = small.distiller(tmp_path, small.detector(family), methods=dict(hint=HINT))
    assert isinstance(model.tapped.adapter, QueryDetectorAdapter)
    before = tiny.weights_of(model.student)
    losses = small.losses_of(model, small.batch_for(family))
    total = small.total(model, losses)
    total.backward()
    assert total.isfinite() and losses['hint.loss_hint'] > 0
    torch.optim.SGD(model.parameters(), lr=1e-4).step()
    moved = {
        n.split('.')[0]
        for n, value in model.student.state_dict().items()
        if not torch.equal(value, before[n])
    }
    assert {'backbone', 'neck', 'encoder', 'decoder', 'bbox_head'} <= moved
    assert not any(p.grad is not None for p in model.teachers[0].model.parameters())


@pytest.mark.parametrize('family', FAMILIES)
def test_class_scores_of_queries_are_refused(family: str, tmp_path: Path) -> None:
    with raises_config_error('student', ANY, 'queries of two networks do not correspond', fix=''):
        small.distiller(tmp_path, small.detector(family))


def test_observe_runs_backbone_and_neck_alone(tmp_path: Path) -> None:
    config = small.detector('deformable_detr')
    teacher = Teacher(config, small.checkpoint(tmp_path, config))
    teacher.request(['backbone[0]', 'neck[3]'])
    with ExitStack() as stack:
        work = ('forward', 'forward_transformer', 'pre_transformer', 'loss', 'predict')
        forbid(stack, teacher.model, *work)
        for part in ('encoder', 'decoder', 'bbox_head'):
            forbid(stack, teacher.model.get_submodule(part), 'forward')
        output = teacher.observe(torch.randn(1, 3, 96, 96))
    assert output.feature('neck[3]').shape == (1, 32, 2, 2)


def test_detector_of_another_kind_is_a_teacher_by_its_maps(tmp_path: Path) -> None:
    """DETR's neck has one map of stride 32, RetinaNet's third one too."""
    hint = dict(type='Hint', pairs=[dict(student='neck[2]', teacher='neck')])
    teachers = [small.teacher(tmp_path, small.detector('detr'))]
    student = small.detector('retinanet')
    model = small.distiller(tmp_path, student, teachers, methods=dict(hint=hint))
    assert small.losses_of(model, small.batch_for('retinanet'))['hint.loss_hint'] > 0


class Unknown(BaseDetector):
    """A detector with a backbone, of a kind that no adapter knows."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)

    def extract_feat(self, batch_inputs: Tensor) -> Tensor:
        return self.backbone(batch_inputs)

    def loss(self, *args: Any) -> Any: ...

    def predict(self, *args: Any) -> Any: ...

    def _forward(self, *args: Any) -> Any:
        raise AssertionError('more than is needed')


def test_unknown_detector_is_observed_by_its_taps() -> None:
    net = TappedModel(Unknown(), 'student')
    assert type(net.adapter) is DetectorAdapter
    assert net.adapter.score_taps == {}
    assert net.adapter.labels([small.sample([], [], (8, 8))]) is None
    net.request(['backbone'])
    assert net.observe(torch.zeros(1, 3, 8, 8)).feature('backbone').shape == (1, 4, 6, 6)
