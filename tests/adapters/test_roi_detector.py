from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mmcv.ops
import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.forbid import forbid
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmkd_plugin.adapters import RoIDetectorHost, host_of
from mmkd_plugin.adapters.roi_detector import _by_image
from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.outputs import ClassScores

FAMILIES = ('faster_rcnn', 'mask_rcnn', 'cascade_rcnn')
STAGES = dict(faster_rcnn=1, mask_rcnn=1, cascade_rcnn=3)


def taught(family: str, folder: Path, **changes: Any) -> Any:
    return small.distiller(folder, small.detector(family), **changes)


def extractors(model: nn.Module) -> list[nn.Module]:
    extractor = model.roi_head.bbox_roi_extractor
    return list(extractor) if isinstance(extractor, nn.ModuleList) else [extractor]


@pytest.mark.parametrize('family', FAMILIES)
def test_a_stock_detector_takes_a_step_as_student_and_as_teacher(
    family: str, tmp_path: Path
) -> None:
    """The teacher's box head is asked about the student's own regions, on the teacher's own features."""
    pairs = [dict(student='neck[0]', teacher='neck[0]')]
    methods = dict(kd=dict(type='SoftTarget', temperature=2.0), hint=dict(type='Hint', pairs=pairs))
    model = taught(family, tmp_path, methods=methods)
    asked: dict[str, list[Any]] = {'student': [], 'teacher': []}
    for who, network in (('student', model.student), ('teacher', model.teachers[0].model)):
        for extractor in extractors(network):
            extractor.register_forward_pre_hook(lambda _, args, who=who: asked[who].append(args))
    maps: list[Tensor] = []
    model.teachers[0].model.neck.register_forward_hook(lambda _, __, output: maps.extend(output))
    before = tiny.weights_of(model.student)
    losses = small.losses_of(model, small.batch_for(family))
    total = small.total(model, losses)
    total.backward()
    assert total.isfinite() and losses['kd.loss_kd'] > 0 and losses['hint.loss_hint'] > 0
    assert len(asked['student']) == len(asked['teacher']) == STAGES[family]
    for (_, student_rois), (features, teacher_rois) in zip(
        asked['student'], asked['teacher'], strict=True
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


def test_each_region_has_its_own_scores_in_its_own_image(tmp_path: Path) -> None:
    model = small.network(small.detector('cascade_rcnn')).eval()
    host = host_of(model)
    assert isinstance(host, RoIDetectorHost)
    inputs = torch.randn(3, 3, 64, 64)
    rois = [
        torch.tensor([[0.0, 1, 1, 30, 30], [2, 5, 5, 60, 40], [2, 0, 0, 9, 9]]),
        torch.zeros(0, 5),
    ]
    with (
        torch.no_grad(),
        FeatureTaps(model, host.score_taps, optional=host.optional_taps).record(model) as features,
    ):
        host.run(model, inputs, True, rois)
    scores = host.knowledge(model, features, inputs).logits
    assert isinstance(scores, ClassScores)
    assert scores.logits.shape == (3, 2, small.CLASSES + 1)
    assert (scores.activation, scores.classes, scores.levels) == ('softmax', small.CLASSES, ())
    assert scores.valid.tolist() == [[True, False], [False, False], [True, True]]
    with torch.no_grad():
        rows = model.roi_head._bbox_forward(0, model.extract_feat(inputs), rois[0])['cls_score']
    assert torch.equal(scores.logits[scores.valid], rows)


def test_no_region_at_all_is_no_place_at_all() -> None:
    rows = torch.zeros(0, 4, requires_grad=True)
    logits, valid = _by_image(torch.zeros(0, 5), rows, 2)
    assert (tuple(logits.shape), tuple(valid.shape)) == ((2, 0, 4), (2, 0))
    logits.sum().backward()


@pytest.mark.parametrize('family', FAMILIES)
def test_a_teacher_does_the_least_work(family: str, tmp_path: Path) -> None:
    """No proposal, assigner, sampler, loss, decoding, NMS or mask."""
    config = small.detector(family)
    teacher = Teacher(config, small.checkpoint(tmp_path, config))
    teacher.tap(['neck[0]'], needs_scores=True)
    roi_head = teacher.model.roi_head
    boxes, assigners, samplers = (
        list(part) if isinstance(part, (nn.ModuleList, list)) else [part]
        for part in (roi_head.bbox_head, roi_head.bbox_assigner, roi_head.bbox_sampler)
    )
    rois = [torch.tensor([[0.0, 1, 1, 30, 30], [1, 5, 5, 60, 40]])] * STAGES[family]
    with ExitStack() as stack:
        forbid(stack, teacher.model, 'forward', 'loss', 'predict', '_forward')
        forbid(
            stack,
            teacher.model.rpn_head,
            'forward',
            'loss',
            'predict',
            'loss_and_predict',
            'predict_by_feat',
        )
        forbid(
            stack,
            roi_head,
            'forward',
            'loss',
            'predict',
            'bbox_loss',
            '_mask_forward',
            'predict_bbox',
            '_refine_roi',
        )
        for box, assigner, sampler in zip(boxes, assigners, samplers, strict=True):
            forbid(
                stack,
                box,
                'loss',
                'loss_and_target',
                'get_targets',
                'predict_by_feat',
                'refine_bboxes',
            )
            forbid(stack, box.bbox_coder, 'decode', 'encode')
            forbid(stack, assigner, 'assign')
            forbid(stack, sampler, 'sample')
        forbid(stack, mmcv.ops, 'nms', 'batched_nms')
        seen = teacher(torch.randn(2, 3, 64, 64), rois)
    assert seen.logits.logits.shape == (2, STAGES[family], small.CLASSES + 1)
    assert not seen.logits.logits.requires_grad
    ran: list[str] = []
    roi_head.register_forward_hook(lambda *_: ran.append('roi_head'))
    for box in boxes:
        box.register_forward_hook(lambda *_: ran.append('box'))
    teacher.tap(['neck[0]'], needs_scores=False)
    assert teacher(torch.randn(2, 3, 64, 64), rois).logits is None
    assert not ran


def without_proposals(model: Any) -> Any:
    """The student's region proposals are none, as its RPN gives where every box is too small."""
    original = model.student.rpn_head.loss_and_predict

    def nothing(*args: Any, **kwargs: Any) -> Any:
        losses, found = original(*args, **kwargs)
        return losses, [one[torch.zeros(len(one), dtype=torch.bool)] for one in found]

    return patch.object(model.student.rpn_head, 'loss_and_predict', nothing)


@pytest.mark.parametrize('family', FAMILIES)
def test_no_region_and_odd_data_give_finite_losses(family: str, tmp_path: Path) -> None:
    """An empty batch of regions, no box, nothing but crowd, a box of one pixel, odd sizes."""
    model = taught(family, tmp_path)
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


def test_another_number_of_stages_is_an_error_that_shows_both(tmp_path: Path) -> None:
    taught = [small.teacher(tmp_path, small.detector('cascade_rcnn'))]
    message = (
        r'^teachers\[0\] \(t1\): expected class scores in the layout of the student, 3 classes, softmax with background at '
        r"1 stage\(s\) of the student's regions; got 3 classes, softmax with background at 3 stage\(s\)"
    )
    with pytest.raises(ValueError, match=message):
        small.distiller(tmp_path, small.detector('faster_rcnn'), taught)
    with pytest.raises(
        ValueError,
        match=r'sigmoid at 5 levels .*; got 3 classes, softmax with background at 3 stage',
    ):
        small.distiller(tmp_path, small.detector('retinanet'), taught)


def test_masks_do_not_matter_for_class_scores(tmp_path: Path) -> None:
    model = taught(
        'faster_rcnn', tmp_path, teachers=[small.teacher(tmp_path, small.detector('mask_rcnn'))]
    )
    assert small.losses_of(model, small.batch_for('faster_rcnn'))['kd.loss_kd'] > 0


def test_class_scores_need_the_students_own_losses(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r'^task_weight: expected a number > 0 where class scores of regions are compared',
    ):
        taught('faster_rcnn', tmp_path, task_weight=0)
    pairs = [dict(student='neck[0]', teacher='neck[0]')]
    model = taught(
        'faster_rcnn', tmp_path, task_weight=0, methods=dict(hint=dict(type='Hint', pairs=pairs))
    )
    assert small.losses_of(model, small.batch_for('faster_rcnn')).keys() == {'hint.loss_hint'}


def test_regions_of_peers_are_each_ones_own() -> None:
    peers = [small.detector('faster_rcnn')] * 2
    with pytest.raises(
        ValueError,
        match=r'^peers\[0\].*expected class scores of the same places in every peer, got FasterRCNN',
    ):
        ROOT_MODELS.build(
            dict(
                type='mmkd_plugin.MutualDistiller',
                peers=peers,
                methods=dict(dml=dict(type='SoftTarget')),
            )
        )


@MMDET_MODELS.register_module(force=True)
class OtherBoxForward(StandardRoIHead):
    """Asks its box head in a way of its own."""

    def _bbox_forward(self, x: Any, rois: Tensor) -> dict[str, Tensor]:
        return super()._bbox_forward(x, rois + 1)


def test_an_unknown_roi_head_is_distilled_by_its_taps(tmp_path: Path) -> None:
    config = small.detector('faster_rcnn', roi_head__type='OtherBoxForward')
    message = r'^student: expected a model whose class scores are known, got FasterRCNN: of a OtherBoxForward the taps alone'
    with pytest.raises(ValueError, match=message):
        small.distiller(tmp_path, config)
    pairs = [dict(student='backbone[3]', teacher='backbone[3]')]
    model = small.distiller(
        tmp_path, config, methods=dict(at=dict(type='AttentionTransfer', pairs=pairs))
    )
    assert small.losses_of(model, small.batch_for('faster_rcnn'))['at.loss_attention'] > 0
