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

from mmkd_plugin.adapters import (
    RoIDetectorAdapter,
    TappedModel,
    Teacher,
    region_heads,
    register_region_head,
)
from mmkd_plugin.adapters.region_heads import classify_once
from mmkd_plugin.adapters.roi_detector import _by_image, _class_logits

FAMILIES = ('faster_rcnn', 'mask_rcnn', 'cascade_rcnn')
STAGES = dict(faster_rcnn=1, mask_rcnn=1, cascade_rcnn=3)
HINT = dict(type='Hint', pairs=[dict(student='neck[0]', teacher='neck[0]')])


def distiller(family: str, folder: Path, student: Any = None, **changes: Any) -> Any:
    config = small.detector(family) if student is None else student
    return small.distiller(folder, config, **changes)


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


class ScoresFirst(StandardRoIHead):
    """A head that calls its box head in another way, and a function that runs it."""

    def _bbox_forward(self, x: Any, rois: Tensor) -> dict[str, Tensor]:
        return super()._bbox_forward(x, rois)


def test_registered_roi_head_is_distilled_by_its_scores(tmp_path: Path) -> None:
    MMDET_MODELS.register_module(module=ScoresFirst, force=True)
    config = small.detector('faster_rcnn', roi_head__type='ScoresFirst')
    with raises_config_error('student', ANY, 'ScoresFirst', 'register_region_head', fix='taps'):
        small.distiller(tmp_path, config)
    register_region_head(ScoresFirst)(classify_once)
    try:
        model = small.distiller(tmp_path, config)
    finally:
        del region_heads._HEADS[ScoresFirst]
    assert small.losses_of(model, small.batch_for('faster_rcnn'))['kd.loss_kd'] > 0


SAMPLERS = dict(
    ohem=dict(type='OHEMSampler', num=8, pos_fraction=0.25, neg_pos_ub=-1),
    score_hlr=dict(
        type='ScoreHLRSampler', num=8, pos_fraction=0.25, neg_pos_ub=-1, k=0.5, bias=0.0
    ),
)


@pytest.mark.parametrize('tap', ['', 'roi_head.bbox_head.fc_cls'])
@pytest.mark.parametrize('sampler', SAMPLERS)
def test_samplers_that_score_regions_do_not_count(sampler: str, tap: str, tmp_path: Path) -> None:
    """The scores are those of the training forward: they carry gradients, for every image."""
    head = 'PISARoIHead' if sampler == 'score_hlr' else 'StandardRoIHead'
    config = small.detector(
        'faster_rcnn', train_cfg__rcnn__sampler=SAMPLERS[sampler], roi_head__type=head
    )
    methods: dict[str, Any] = dict(kd=dict(type='SoftTarget'))
    if tap:
        methods = dict(hint=dict(type='Hint', pairs=[dict(student=tap, teacher=tap)]))
    model = distiller('faster_rcnn', tmp_path, methods=methods, student=config)
    calls: list[bool] = []
    model.student.roi_head.bbox_head.register_forward_hook(
        lambda *_: calls.append(torch.is_grad_enabled())
    )
    batch = model.data_preprocessor(small.batch_for('faster_rcnn'), True)
    with model.tapped.recording(batch['inputs'], batch['data_samples']) as recording:
        model.student(**batch, mode='loss')
    assert calls.count(True) == 1 and len(calls) > 1
    scores = recording.output.scores
    assert scores.logits.requires_grad and scores.valid.sum(dim=1).tolist() == [8, 8]
    losses = small.losses_of(model, small.batch_for('faster_rcnn'))
    total = sum(value for name, value in losses.items() if not name.startswith('task.'))
    assert total > 0
    total.backward()
    assert model.student.roi_head.bbox_head.fc_cls.weight.grad.abs().sum() > 0


def test_scores_of_regions_of_no_image_are_refused() -> None:
    rows, rois = torch.zeros(1, 4), torch.tensor([[2.0, 1, 1, 30, 30]])
    for one, of in ((rois, rows), (rois[:0], rows)):
        with raises_config_error('', ANY, 'must belong to', '2 images', fix='taps'):
            _by_image(one, of, 2)


def test_several_feature_maps_an_image_are_refused(tmp_path: Path) -> None:
    """TridentNet makes three copies of each image in training, one in eval mode."""
    net = TappedModel(small.network(small.detector('faster_rcnn')).eval(), 'student')
    net.request([], scores=True)
    plain = net.model.extract_feat
    net.model.extract_feat = lambda inputs: plain(torch.cat([inputs] * 3))
    with raises_config_error('student', ANY, '3 feature maps of each image', fix='taps'):
        net.observe(torch.randn(2, 3, 64, 64))


class Seesaw(nn.Module):
    """A box head whose loss has classes and objectness in channels of its own."""

    custom_cls_channels = True
    num_classes = 3

    def __init__(self, total: float = 1.0) -> None:
        super().__init__()
        self.loss_cls = MMDET_MODELS.build(dict(type='SeesawLoss', num_classes=3))
        plain = self.loss_cls.get_activation
        self.loss_cls.get_activation = lambda rows: total * plain(rows)


def test_custom_channels_become_logits_of_the_distribution_that_the_head_predicts() -> None:
    head, rows = Seesaw(), torch.randn(6, 5)
    logits = _class_logits(head, rows)
    assert torch.allclose(logits.softmax(dim=-1), head.loss_cls.get_activation(rows), atol=1e-6)
    with raises_config_error('', ANY, 'SeesawLoss makes no distribution', fix='taps'):
        _class_logits(Seesaw(0.5), rows)


@pytest.mark.parametrize(
    ('family', 'tap'),
    [
        ('faster_rcnn', 'rpn_head.rpn_conv#0'),
        ('faster_rcnn', 'roi_head.bbox_head[0]'),
        ('cascade_rcnn', 'roi_head.bbox_head.1.fc_cls'),
    ],
)
def test_parts_of_the_heads_are_tapped_without_scores(
    family: str, tap: str, tmp_path: Path
) -> None:
    """A tap on regions sees the regions of the student in both networks."""
    methods = dict(hint=dict(type='Hint', pairs=[dict(student=tap, teacher=tap)]))
    model = distiller(family, tmp_path, methods=methods)
    losses = small.losses_of(model, small.batch_for(family))
    assert losses['hint.loss_hint'] > 0
    small.total(model, losses).backward()
    assert model.tapped.needs_scores is tap.startswith('roi_head')


def test_taps_on_regions_beside_a_network_without_regions_are_refused(tmp_path: Path) -> None:
    tap = dict(student='neck[0]', teacher='roi_head.bbox_head.shared_fcs.0')
    teachers = [small.teacher(tmp_path, small.detector('faster_rcnn'))]
    methods = dict(hint=dict(type='Hint', pairs=[tap]))
    with raises_config_error('student', ANY, 'must be a two-stage detector', fix='the neck'):
        small.distiller(tmp_path, small.detector('retinanet'), teachers, methods=methods)


@pytest.mark.parametrize('tap', ['roi_head.mask_head.conv_logits'])
def test_parts_that_run_on_other_regions_are_refused(tap: str, tmp_path: Path) -> None:
    methods = dict(hint=dict(type='Hint', pairs=[dict(student=tap, teacher=tap)]))
    with raises_config_error('student', ANY, 'does not run in this forward', fix='inspect_taps'):
        distiller('mask_rcnn', tmp_path, methods=methods)


def test_unknown_roi_head_is_distilled_by_its_taps(tmp_path: Path) -> None:
    config = small.detector('faster_rcnn', roi_head__type='OtherBoxForward')
    with raises_config_error('student', ANY, 'FasterRCNN', 'OtherBoxForward', fix='taps alone'):
        small.distiller(tmp_path, config)
    pairs = [dict(student='backbone[3]', teacher='backbone[3]')]
    model = small.distiller(
        tmp_path, config, methods=dict(at=dict(type='AttentionTransfer', pairs=pairs))
    )
    assert small.losses_of(model, small.batch_for('faster_rcnn'))['at.loss_attention'] > 0
