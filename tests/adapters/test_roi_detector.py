from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mmcv.ops
import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from helpers.forbid import forbid
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmkd_plugin.adapters import RoIDetectorAdapter, TappedModel, Teacher
from mmkd_plugin.adapters.roi_detector import _by_image

FAMILIES = ('faster_rcnn', 'mask_rcnn', 'cascade_rcnn')
STAGES = dict(faster_rcnn=1, mask_rcnn=1, cascade_rcnn=3)
HINT = dict(type='Hint', pairs=[dict(student='neck[0]', teacher='neck[0]')])


def distiller(family: str, folder: Path, **changes: Any) -> Any:
    return small.distiller(folder, small.detector(family), **changes)


def several(part: Any) -> list[Any]:
    """The parts of all stages."""
    return list(part) if isinstance(part, (nn.ModuleList, list)) else [part]


@pytest.mark.parametrize('family', FAMILIES)
def test_stock_detector_takes_a_step_as_student_and_as_teacher(family: str, tmp_path: Path) -> None:
    """The teacher's box head classifies the student's regions, on the teacher's own features."""
    methods = dict(kd=dict(type='SoftTarget', temperature=2.0), hint=HINT)
    model = distiller(family, tmp_path, methods=methods)
    calls: dict[str, list[Any]] = {'student': [], 'teacher': []}
    for name, network in (('student', model.student), ('teacher', model.teachers[0].model)):
        for extractor in several(network.roi_head.bbox_roi_extractor):
            extractor.register_forward_pre_hook(lambda _, args, name=name: calls[name].append(args))
    maps: list[Tensor] = []
    model.teachers[0].model.neck.register_forward_hook(lambda _, __, output: maps.extend(output))
    before = tiny.weights_of(model.student)
    losses = small.losses_of(model, small.batch_for(family))
    total = small.total(model, losses)
    total.backward()
    assert total.isfinite() and losses['kd.loss_kd'] > 0 and losses['hint.loss_hint'] > 0
    assert len(calls['student']) == len(calls['teacher']) == STAGES[family]
    for (_, student_rois), (features, teacher_rois) in zip(
        calls['student'], calls['teacher'], strict=True
    ):
        assert torch.equal(student_rois, teacher_rois) and len(teacher_rois) > 10
        assert all(one is other for one, other in zip(features, maps, strict=False))
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in model.parameters()
        if p.requires_grad
    )
    torch.optim.SGD(model.parameters(), lr=1e-4).step()
    moved = {
        n.split('.')[0]
        for n, value in model.student.state_dict().items()
        if not torch.equal(value, before[n])
    }
    assert moved == {'backbone', 'neck', 'rpn_head', 'roi_head'}
    assert not any(
        p.requires_grad or p.grad is not None for p in model.teachers[0].model.parameters()
    )


def test_scores_of_each_region_belong_to_its_image() -> None:
    """Regions by image: 1, 0 and 2 in the first stage, none in the second, and no third stage."""
    net = TappedModel(small.network(small.detector('cascade_rcnn')).eval(), 'teacher')
    assert isinstance(net.adapter, RoIDetectorAdapter)
    net.request([], scores=True)
    inputs = torch.randn(3, 3, 64, 64)
    regions = torch.tensor([[0.0, 1, 1, 30, 30], [2, 5, 5, 60, 40], [2, 0, 0, 9, 9]])
    with torch.no_grad():
        output = net.observe(inputs, [regions, torch.zeros(0, 5)])
        rows = net.model.roi_head._bbox_forward(0, net.model.extract_feat(inputs), regions)
    scores = output.scores
    assert scores.logits.shape == (3, 2, small.CLASSES + 1)
    assert (scores.activation, scores.num_classes, scores.levels) == ('softmax', small.CLASSES, ())
    assert scores.background and not scores.per_image
    assert [len(one) for one in output.rois] == [3, 0]
    assert scores.valid.tolist() == [[True, False], [False, False], [True, True]]
    assert torch.equal(scores.logits[scores.valid], rows['cls_score'])


def test_by_image_no_region_at_all_gives_no_location() -> None:
    rows = torch.zeros(0, 4, requires_grad=True)
    logits, valid = _by_image(torch.zeros(0, 5), rows, 2)
    assert (tuple(logits.shape), tuple(valid.shape)) == ((2, 0, 4), (2, 0))
    logits.sum().backward()


@pytest.mark.parametrize('family', FAMILIES)
def test_observe_does_the_least_work(family: str, tmp_path: Path) -> None:
    """No proposal, assigner, sampler, loss, decoding, NMS or mask."""
    config = small.detector(family)
    teacher = Teacher(config, small.checkpoint(tmp_path, config))
    teacher.request(['neck[0]'], scores=True)
    model, roi_head = teacher.model, teacher.model.roi_head
    parts = (roi_head.bbox_head, roi_head.bbox_assigner, roi_head.bbox_sampler)
    boxes, assigners, samplers = map(several, parts)
    rois = [torch.tensor([[0.0, 1, 1, 30, 30], [1, 5, 5, 60, 40]])] * STAGES[family]
    forward = ('forward', 'loss', 'predict')
    with ExitStack() as stack:
        forbid(stack, model, *forward, '_forward')
        forbid(stack, model.rpn_head, *forward, 'loss_and_predict', 'predict_by_feat')
        work = ('bbox_loss', '_mask_forward', 'predict_bbox', '_refine_roi')
        forbid(stack, roi_head, *forward, *work)
        for box, assigner, sampler in zip(boxes, assigners, samplers, strict=True):
            work = ('loss', 'loss_and_target', 'get_targets', 'predict_by_feat', 'refine_bboxes')
            forbid(stack, box, *work)
            forbid(stack, box.bbox_coder, 'decode', 'encode')
            forbid(stack, assigner, 'assign')
            forbid(stack, sampler, 'sample')
        forbid(stack, mmcv.ops, 'nms', 'batched_nms')
        scores = teacher.observe(torch.randn(2, 3, 64, 64), rois).scores
    assert scores.logits.shape == (2, STAGES[family], small.CLASSES + 1)
    assert not scores.logits.requires_grad
    ran: list[str] = []
    roi_head.register_forward_hook(lambda *_: ran.append('roi_head'))
    for box in boxes:
        box.register_forward_hook(lambda *_: ran.append('box'))
    teacher.request(['neck[0]'])
    assert teacher.observe(torch.randn(2, 3, 64, 64), rois).scores is None
    assert not ran


def without_proposals(model: Any) -> Any:
    """Leave the student no proposal, as an RPN does whose boxes are all too small."""
    original = model.student.rpn_head.loss_and_predict

    def nothing(*args: Any, **kwargs: Any) -> Any:
        losses, found = original(*args, **kwargs)
        return losses, [one[torch.zeros(len(one), dtype=torch.bool)] for one in found]

    return patch.object(model.student.rpn_head, 'loss_and_predict', nothing)


@pytest.mark.parametrize('family', FAMILIES)
def test_no_region_and_odd_data_give_finite_losses(family: str, tmp_path: Path) -> None:
    """An empty batch of regions, no box, nothing but crowd, a box of one pixel, odd sizes."""
    model = distiller(family, tmp_path)
    masks = family == 'mask_rcnn'
    nothing = small.sample([], [], (75, 91), masks=masks)
    crowd = small.sample([[4, 4, 60, 60]], [1], (97, 53), crowd=True, masks=masks)
    pixel = small.sample([[30, 30, 31, 31]], [2], (64, 64), masks=masks)
    with without_proposals(model):
        losses = small.losses_of(model, small.batch_of([nothing, nothing]))
    assert losses['kd.loss_kd'].item() == 0.0
    small.total(model, losses).backward()
    assert model.student.backbone.layer4[0].conv1.weight.grad.isfinite().all()
    for samples in ([nothing, nothing], [crowd], [pixel, nothing]):
        losses = small.losses_of(model, small.batch_of(samples))
        total = small.total(model, losses)
        total.backward()
        assert total.isfinite() and losses['kd.loss_kd'].isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ('student', 'expected'),
    [
        ('faster_rcnn', "softmax with background, 1 stage(s) of the student's regions"),
        ('retinanet', 'sigmoid, 5 levels'),
    ],
)
def test_teacher_with_another_number_of_stages_is_refused_with_both_layouts(
    student: str, expected: str, tmp_path: Path
) -> None:
    teachers = [small.teacher(tmp_path, small.detector('cascade_rcnn'))]
    layouts = f'layout of student, 3 classes, {expected}', 'softmax with background, 3 stage(s)'
    with raises_config_error('teachers[0] (t1)', ANY, *layouts, fix='Use methods on taps alone'):
        small.distiller(tmp_path, small.detector(student), teachers)


def test_teacher_with_masks_is_accepted_for_a_student_without(tmp_path: Path) -> None:
    teachers = [small.teacher(tmp_path, small.detector('mask_rcnn'))]
    model = distiller('faster_rcnn', tmp_path, teachers=teachers)
    assert small.losses_of(model, small.batch_for('faster_rcnn'))['kd.loss_kd'] > 0


def test_class_scores_without_the_students_own_losses_are_refused(tmp_path: Path) -> None:
    with raises_config_error('task_weight', 0.0, 'class scores of regions', fix='taps alone'):
        distiller('faster_rcnn', tmp_path, task_weight=0)
    model = distiller('faster_rcnn', tmp_path, task_weight=0, methods=dict(hint=HINT))
    assert small.losses_of(model, small.batch_for('faster_rcnn')).keys() == {'hint.loss_hint'}


def test_class_scores_between_peers_are_refused() -> None:
    """Each peer samples its own regions."""
    peers = [small.detector('faster_rcnn')] * 2
    config = dict(
        type='mmkd_plugin.MutualDistiller',
        peers=peers,
        methods=dict(dml=dict(type='SoftTarget')),
    )
    with raises_config_error('peers[0] (peer0)', 'FasterRCNN', 'the same locations', fix='taps'):
        ROOT_MODELS.build(config)


@MMDET_MODELS.register_module(force=True)
class OtherBoxForward(StandardRoIHead):
    """A head that calls its box head in another way."""

    def _bbox_forward(self, x: Any, rois: Tensor) -> dict[str, Tensor]:
        return super()._bbox_forward(x, rois + 1)


def test_unknown_roi_head_is_distilled_by_its_taps(tmp_path: Path) -> None:
    config = small.detector('faster_rcnn', roi_head__type='OtherBoxForward')
    with raises_config_error('student', ANY, 'FasterRCNN', 'OtherBoxForward', fix='taps alone'):
        small.distiller(tmp_path, config)
    pairs = [dict(student='backbone[3]', teacher='backbone[3]')]
    model = small.distiller(
        tmp_path, config, methods=dict(at=dict(type='AttentionTransfer', pairs=pairs))
    )
    assert small.losses_of(model, small.batch_for('faster_rcnn'))['at.loss_attention'] > 0
