"""Box outputs of dense heads: requested by a method, comparable, or refused."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import dense_families as families
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from helpers.forbid import forbid
from torch import Tensor

from mmkd_plugin.adapters import TappedModel
from mmkd_plugin.boxes import BoxOutputs
from mmkd_plugin.models.methods import Method, Requests
from mmkd_plugin.registry import MODELS


@MODELS.register_module(force=True)
class BoxMean(Method):
    """A method on boxes alone."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight=loss_weight)

    def requests(self, num_teachers: int) -> Requests:
        return Requests(teachers=((),) * num_teachers, boxes=True)

    def forward(self, student: Any, teachers: Any, labels: Tensor | None) -> dict[str, Tensor]:
        own, other = student.boxes, teachers[0].boxes
        return {'loss_box': (own.values - other.values).square().mean()}


BOXES = dict(boxes=dict(type='BoxMean'))


@pytest.mark.parametrize(
    ('family', 'kind', 'shape'),
    [
        ('retinanet', 'delta', (4,)),
        ('fcos', 'distance', (4,)),
        ('gfl', 'distribution', (4, 17)),
        ('rtmdet', 'distance', (4,)),
        ('yolox', 'delta', (4,)),
        ('yolov3', 'delta', (4,)),
        ('vfnet', 'distance', (4,)),
        ('autoassign', 'distance', (4,)),
        ('centernet_update', 'distance', (4,)),
    ],
)
def test_method_on_boxes_trains_the_student(
    family: str, kind: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = small.distiller(tmp_path, families.detector(family), methods=BOXES).train()
    raw = families.batch_for(family)
    loss = small.losses_of(model, raw)['boxes.loss_box']
    assert loss > 0
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.student.bbox_head.parameters())
    net = model.teachers[0]
    batch = net.data_preprocessor(raw, False)
    output = net.observe(batch['inputs'], data_samples=batch['data_samples'])
    boxes, scores = output.boxes, output.scores
    assert boxes.kind == kind
    assert boxes.values.shape == (*scores.logits.shape[:2], *shape)
    assert boxes.levels == scores.levels and boxes.valid is scores.valid
    assert not boxes.values.requires_grad


def observed(model: Any, inputs: Tensor) -> Any:
    net = TappedModel(model, 'network')
    net.request([], boxes=True)
    with torch.no_grad():
        return net.observe(inputs)


def test_distances_of_fcos_are_pixels_whatever_its_unit() -> None:
    """In training a normalised head returns strides, and pixels in eval mode."""
    inputs = torch.randn(2, 3, 64, 64)
    model = small.network(small.detector('fcos', bbox_head__norm_on_bbox=True)).eval()
    boxes = observed(model, inputs).boxes
    with torch.no_grad():
        expected = model.bbox_head(model.extract_feat(inputs))[1]
    for level, found in zip(expected, boxes.values.split([64, 16, 4, 1, 1], dim=1), strict=True):
        torch.testing.assert_close(found, level.permute(0, 2, 3, 1).flatten(1, 2))


def test_distribution_of_gfl_decodes_to_the_host_s_distances() -> None:
    inputs = torch.randn(2, 3, 64, 64)
    model = small.network(small.detector('gfl')).eval()
    boxes = observed(model, inputs).boxes
    with torch.no_grad():
        first = model.bbox_head(model.extract_feat(inputs))[1][0]
        expected = model.bbox_head.integral(first.permute(0, 2, 3, 1).reshape(-1, 68))
    mean = (boxes.values.softmax(dim=-1) * torch.arange(17.0)).sum(dim=-1)
    torch.testing.assert_close(mean[:, :64].reshape(-1, 4), expected)


def test_priors_are_made_once() -> None:
    model = small.network(small.detector('gfl')).eval()
    net = TappedModel(model, 'network')
    net.request([], boxes=True)
    first = net.observe(torch.zeros(2, 3, 64, 64)).boxes
    with ExitStack() as stack:
        forbid(stack, model.bbox_head.prior_generator, 'single_level_grid_priors')
        assert net.observe(torch.zeros(2, 3, 64, 64)).boxes.priors is first.priors


@pytest.mark.parametrize(
    ('student', 'teacher', 'options', 'mention'),
    [
        ('gfl', 'fcos', {}, 'distance, 5 levels'),
        ('gfl', 'gfl', {'model.bbox_head.reg_max': 8}, 'distribution of 9 bins'),
        ('fcos', 'vfnet', {'model.bbox_head.center_sampling': True}, 'at (4, 4)'),
        ('retinanet', 'free_anchor', {}, 'stds=[0.1, 0.1, 0.2, 0.2]'),
        (
            'retinanet', 'retinanet',
            {'model.bbox_head.anchor_generator.octave_base_scale': 8}, 'at (-45.25',
        ),
    ],
)  # fmt: skip
def test_boxes_of_another_form_are_refused_and_class_scores_are_not(
    student: str, teacher: str, options: Any, mention: str, tmp_path: Path
) -> None:
    own = families.detector(student)
    teachers = [small.teacher(tmp_path, families.detector(teacher, options))]
    with raises_config_error('teachers[0] (t1)', ANY, 'form of student', mention):
        small.distiller(tmp_path, own, teachers, methods=BOXES)
    small.distiller(tmp_path, own, teachers)


@pytest.mark.parametrize(
    ('family', 'mention'),
    [
        ('tood', 'boxes of TOODHead cannot be compared'),
        ('faster_rcnn', 'boxes of FasterRCNN cannot be compared'),
    ],
)
def test_detector_without_boxes_at_locations_is_refused(
    family: str, mention: str, tmp_path: Path
) -> None:
    with raises_config_error('student', ANY, mention):
        small.distiller(tmp_path, families.detector(family), methods=BOXES)


def test_boxes_are_cut_as_the_class_scores_are() -> None:
    values = torch.arange(2 * 14 * 4.0).view(2, 14, 4)
    valid = torch.ones(2, 14, dtype=torch.bool)
    boxes = BoxOutputs(values, 'delta', levels=((3, 4, 1), (1, 2, 1)), valid=valid)
    cut = boxes.on_levels(((2, 3, 1), (1, 1, 1)))
    assert cut.values[0, :, 0].tolist() == [0, 4, 8, 16, 20, 24, 48]
    assert cut.valid is not None and cut.valid.shape == (2, 7)
    assert boxes.on_levels(boxes.levels) is boxes
    assert BoxOutputs(values.requires_grad_(), 'delta').detach().values.requires_grad is False
