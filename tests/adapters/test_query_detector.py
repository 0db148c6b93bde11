from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.forbid import forbid
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

from mmkd_plugin.adapters import DetectorHost, QueryDetectorHost, host_of
from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.adapters.teacher import Teacher

FAMILIES = ('detr', 'deformable_detr', 'dino')
PAIRS = [dict(student='neck[0]', teacher='neck[0]')]


@pytest.mark.parametrize('family', FAMILIES)
def test_a_stock_detector_takes_a_step_as_student_and_as_teacher(
    family: str, tmp_path: Path
) -> None:
    config = small.detector(family)
    model = small.distiller(tmp_path, config, methods=dict(hint=dict(type='Hint', pairs=PAIRS)))
    assert isinstance(model.host, QueryDetectorHost)
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
def test_class_scores_of_queries_are_an_error(family: str, tmp_path: Path) -> None:
    message = r'^student: expected a model whose class scores are known, got \w+: its queries do not correspond to those'
    with pytest.raises(ValueError, match=message):
        small.distiller(tmp_path, small.detector(family))


def test_a_teacher_has_backbone_and_neck_to_say(tmp_path: Path) -> None:
    config = small.detector('deformable_detr')
    teacher = Teacher(config, small.checkpoint(tmp_path, config))
    teacher.tap(['backbone[0]', 'neck[3]'], needs_scores=False)
    with ExitStack() as stack:
        forbid(
            stack,
            teacher.model,
            'forward',
            'forward_transformer',
            'pre_transformer',
            'loss',
            'predict',
        )
        for part in ('encoder', 'decoder', 'bbox_head'):
            forbid(stack, teacher.model.get_submodule(part), 'forward')
        assert teacher(torch.randn(1, 3, 96, 96)).features['neck[3]'].shape == (1, 32, 2, 2)


def test_a_detector_can_teach_another_kind_by_its_maps(tmp_path: Path) -> None:
    """DETR's neck has one map of stride 32, RetinaNet's third one too."""
    pairs = [dict(student='neck[2]', teacher='neck')]
    taught = [small.teacher(tmp_path, small.detector('detr'))]
    model = small.distiller(
        tmp_path,
        small.detector('retinanet'),
        taught,
        methods=dict(hint=dict(type='Hint', pairs=pairs)),
    )
    assert small.losses_of(model, small.batch_for('retinanet'))['hint.loss_hint'] > 0


class Unheard(BaseDetector):
    """A detector with a backbone, of a kind that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)

    def extract_feat(self, batch_inputs: Tensor) -> Tensor:
        return self.backbone(batch_inputs)

    def loss(self, *args: Any) -> Any: ...

    def predict(self, *args: Any) -> Any: ...

    def _forward(self, *args: Any) -> Any:
        raise AssertionError('more than is needed')


def test_any_other_detector_has_its_taps() -> None:
    model = Unheard()
    host = host_of(model)
    assert type(host) is DetectorHost
    assert (host.score_taps, host.labels([small.sample([], [], (8, 8))])) == ((), None)
    with FeatureTaps(model, ['backbone']).record(model) as features:
        host.run(model, torch.zeros(1, 3, 8, 8), scores=False)
    assert features['backbone'].shape == (1, 4, 6, 6)
