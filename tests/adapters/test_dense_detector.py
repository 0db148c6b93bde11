from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import mmcv.ops
import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from helpers.forbid import forbid
from mmdet.models.dense_heads import GFLHead, RetinaHead
from mmdet.registry import MODELS as MMDET_MODELS
from torch import Tensor, nn

from mmkd_plugin.adapters import DenseDetectorAdapter, TappedModel, Teacher, get_adapter
from mmkd_plugin.adapters.dense_detector import _assigned_classes as assigned_classes
from mmkd_plugin.adapters.dense_heads import _joint_logit
from mmkd_plugin.outputs import ClassScores

QUICK = [family for family in small.DENSE if family != 'ssd']
EVERY = [*QUICK, pytest.param('ssd', marks=pytest.mark.slow)]


def distiller(family: str, folder: Path, **changes: Any) -> Any:
    shape = dict(probe_shape=(3, 300, 300)) if family == 'ssd' else {}
    return small.distiller(folder, small.detector(family), **shape, **changes)


def hint(student: str, teacher: str) -> dict[str, Any]:
    return dict(hint=dict(type='Hint', pairs=[dict(student=student, teacher=teacher)]))


def with_scores(model: nn.Module) -> TappedModel:
    net = TappedModel(model, 'network')
    net.request([], scores=True)
    return net


def scores_of(model: nn.Module, batch: Any) -> ClassScores:
    with torch.no_grad():
        output = with_scores(model).observe(batch['inputs'], data_samples=batch['data_samples'])
    assert output.scores is not None
    return output.scores


def preprocessed(model: nn.Module, raw: Any) -> Any:
    return model.data_preprocessor(raw, False)


def confidence(scores: ClassScores) -> Tensor:
    """The largest probability of a class that is not the background, (N, A)."""
    probabilities = scores.logits.softmax(dim=-1)[..., :-1]
    return probabilities.amax(dim=-1)


@pytest.mark.parametrize('family', EVERY)
def test_stock_detector_takes_a_step_as_student_and_as_teacher(family: str, tmp_path: Path) -> None:
    methods = dict(kd=dict(type='SoftTarget', temperature=2.0), **hint('neck[-1]', 'neck[-1]'))
    model = distiller(family, tmp_path, methods=methods)
    frozen = {name: value.clone() for name, value in model.teachers[0].model.state_dict().items()}
    before = tiny.weights_of(model.student)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = small.losses_of(model, small.batch_for(family))
    total = small.total(model, losses)
    assert torch.isfinite(total)
    assert losses['kd.loss_kd'] > 0 and losses['hint.loss_hint'] > 0
    assert {name.split('.')[0] for name in losses} == {'task', 'kd', 'hint'}
    total.backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in model.parameters()
        if p.requires_grad
    )
    optimizer.step()
    after = model.student.state_dict()
    moved = {n.split('.')[0] for n, value in after.items() if not torch.equal(value, before[n])}
    assert {'bbox_head', 'backbone'} <= moved
    assert all(
        torch.equal(value, frozen[name])
        for name, value in model.teachers[0].model.state_dict().items()
    )
    assert not any(
        p.requires_grad or p.grad is not None for p in model.teachers[0].model.parameters()
    )


@pytest.mark.parametrize('family', QUICK)
def test_gradient_of_scores_reaches_head_and_backbone_but_no_box_regression(
    family: str, tmp_path: Path
) -> None:
    model = distiller(family, tmp_path)
    loss = small.losses_of(model, small.batch_for(family))['kd.loss_kd']
    loss.backward()
    reached = {
        name
        for name, p in model.student.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert any(name.startswith('bbox_head') for name in reached)
    assert any(name.startswith('backbone') for name in reached)
    assert not any('_reg.' in name for name in reached)


@pytest.mark.parametrize('family', QUICK)
def test_scores_of_each_location_are_those_of_the_head(family: str) -> None:
    model = small.network(small.detector(family)).eval()
    batch = preprocessed(model, small.batch_for(family))
    scores = scores_of(model, batch)
    with torch.no_grad():
        outputs = model.bbox_head(model.extract_feat(batch['inputs']))
    start, width = 0, small.CLASSES + (family == 'ssdlite')
    for level, (rows, columns, anchors) in enumerate(scores.levels):
        raw = outputs[0][level]
        assert raw.shape == (2, anchors * width, rows, columns)
        for row, column, anchor in [(0, 0, 0), (rows - 1, columns // 2, anchors - 1)]:
            location = start + (row * columns + column) * anchors + anchor
            expected = raw[1, anchor * width : (anchor + 1) * width, row, column].sigmoid()
            if family == 'yolox':
                expected = expected * outputs[2][level][1, 0, row, column].sigmoid()
            torch.testing.assert_close(scores.logits[1, location].sigmoid(), expected)
        start += rows * columns * anchors
    assert scores.logits.shape == (2, start, width)
    assert scores.num_classes == small.CLASSES
    assert scores.activation == ('softmax' if family == 'ssdlite' else 'sigmoid')
    assert scores.background is (family == 'ssdlite')


def test_scores_of_ssd_have_a_softmax_with_the_background_last() -> None:
    model = small.network(small.detector('ssdlite')).eval()
    batch = preprocessed(model, small.batch_for('ssdlite'))
    scores = scores_of(model, batch)
    assert (scores.activation, scores.num_classes) == ('softmax', small.CLASSES)
    assert scores.background and scores.logits.shape[-1] == small.CLASSES + 1
    # MMDet predicts from the columns of classes alone, so its best box has the score of our most
    # confident location. MMDet 3.3 forgot loss_cls.
    with patch.object(model.bbox_head, 'loss_cls', Mock(custom_cls_channels=False), create=True):
        predicted = model(**batch, mode='predict')
    torch.testing.assert_close(
        confidence(scores)[0].max(), predicted[0].pred_instances.scores.max()
    )


@pytest.mark.parametrize('family', QUICK)
def test_scores_are_the_same_in_training_and_in_observation(family: str) -> None:
    model = small.network(small.detector(family)).eval()
    batch = preprocessed(model, small.batch_for(family))
    with with_scores(model).recording(batch['inputs']) as recording:
        model(**batch, mode='loss')
    trained = recording.output.scores
    assert torch.equal(trained.logits, scores_of(model, batch).logits)
    assert trained.logits.requires_grad


@pytest.mark.parametrize('family', QUICK)
def test_locations_in_the_padding_are_those_that_mmdet_calls_invalid(family: str) -> None:
    model = small.network(small.detector(family)).eval()
    batch = preprocessed(model, small.batch_for(family))
    scores = scores_of(model, batch)
    for index, sample in enumerate(batch['data_samples']):
        sizes = [level[:2] for level in scores.levels]
        flags = model.bbox_head.prior_generator.valid_flags(sizes, sample.img_shape, device='cpu')
        assert torch.equal(scores.valid[index], torch.cat(flags).bool())
    assert scores.valid[0].all() and not scores.valid[1].all()


@pytest.mark.parametrize('family', QUICK)
def test_observe_does_the_least_work(family: str, tmp_path: Path) -> None:
    """No assigner, sampler, loss, prior, decoding or NMS."""
    config = small.detector(family)
    teacher = Teacher(config, small.checkpoint(tmp_path, config))
    teacher.request(['backbone[0]'], scores=True)
    model, head = teacher.model, teacher.model.bbox_head
    parts = dict(assigner='assign', sampler='sample', loss_cls='forward', loss_bbox='forward')
    with ExitStack() as stack:
        forbid(stack, model, 'forward', 'loss', 'predict', '_forward', 'add_pred_to_datasample')
        forbid(stack, head, 'loss', 'loss_by_feat', 'predict', 'predict_by_feat', 'get_targets')
        priors = ('grid_priors', 'valid_flags', 'single_level_grid_priors')
        forbid(stack, head.prior_generator, *priors)
        for part, work in parts.items():
            forbid(stack, getattr(head, part, None), work)
        forbid(stack, getattr(head, 'bbox_coder', None), 'decode', 'encode')
        forbid(stack, mmcv.ops, 'nms', 'batched_nms')
        output = teacher.observe(torch.randn(2, 3, 96, 96))
    assert output.scores is not None
    assert not output.scores.logits.requires_grad


def test_observe_without_scores_stops_at_the_deepest_tap_even_in_the_head(tmp_path: Path) -> None:
    config = small.detector('retinanet')
    teacher = Teacher(config, small.checkpoint(tmp_path, config))
    ran: list[str] = []
    for name in ('backbone.layer3', 'backbone.layer4', 'neck', 'bbox_head'):
        teacher.model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: ran.append(name)
        )
    images = torch.randn(1, 3, 64, 64)
    teacher.request(['backbone.layer3'])
    teacher.probe((3, 64, 64))
    ran.clear()
    teacher.observe(images)
    assert ran == ['backbone.layer3']
    teacher.request(['bbox_head[1][0]'])
    teacher.probe((3, 64, 64))
    ran.clear()
    assert teacher.observe(images).feature('bbox_head[1][0]').shape == (1, 36, 8, 8)
    assert ran == ['backbone.layer3', 'backbone.layer4', 'neck', 'bbox_head']


def test_joint_logit_equals_the_logit_of_the_product_for_extreme_values_too() -> None:
    classes = torch.tensor([-30.0, -2.0, 0.0, 3.0, 12.0], dtype=torch.float64)
    objects = torch.tensor([4.0, -1.0, 0.0, 5.0, 12.0], dtype=torch.float64)
    product = classes.sigmoid() * objects.sigmoid()
    torch.testing.assert_close(_joint_logit(classes, objects), (product / (1 - product)).log())
    extreme = torch.tensor([-500.0, 500.0, 500.0], requires_grad=True)
    other = torch.tensor([500.0, 500.0, -500.0])
    joint = _joint_logit(extreme, other)
    joint.sum().backward()
    assert joint.isfinite().all() and extreme.grad.isfinite().all()
    assert joint[0].item() == pytest.approx(-500.0) and joint[1] > 20


@MMDET_MODELS.register_module(force=True)
class OtherLoss(RetinaHead):
    """A head with RetinaNet's scores and another loss."""

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {'loss_cls': args[0][0].sum()}


@MMDET_MODELS.register_module(force=True)
class OtherScores(GFLHead):
    """A head that returns probabilities, unlike GFL, which returns logits."""

    def forward_single(self, x: Tensor, scale: Any) -> Any:
        scores, boxes = super().forward_single(x, scale)
        return scores.sigmoid(), boxes


def test_subclass_is_known_unless_it_overrides_the_forward(tmp_path: Path) -> None:
    known = get_adapter(small.network(small.detector('retinanet', bbox_head__type='OtherLoss')))
    unknown = get_adapter(small.network(small.detector('gfl', bbox_head__type='OtherScores')))
    assert type(known) is type(unknown) is DenseDetectorAdapter
    assert list(known.score_taps) == ['bbox_head']
    assert unknown.score_taps == {}
    with raises_config_error('student', ANY, 'class scores of GFL', 'OtherScores', fix='taps'):
        small.distiller(tmp_path, small.detector('gfl', bbox_head__type='OtherScores'))


NINE_ANCHORS = (
    'sigmoid, 5 levels of (rows x columns x anchors) 8x8x9, 4x4x9, 2x2x9, 1x1x9, 1x1x9, '
    'strides 8, 16, 32, 64, 128'
)
ONE_ANCHOR = NINE_ANCHORS.replace('x9', 'x1')
THREE_LEVELS = (
    'sigmoid, 3 levels of (rows x columns x anchors) 8x8x1, 4x4x1, 2x2x1, strides 8, 16, 32'
)


@pytest.mark.parametrize(
    ('student', 'teacher', 'expected', 'found'),
    [
        ('retinanet', 'gfl', NINE_ANCHORS, ONE_ANCHOR),
        ('gfl', 'rtmdet', ONE_ANCHOR, THREE_LEVELS),
    ],
)
def test_teacher_with_another_layout_is_refused_with_both_layouts(
    student: str, teacher: str, expected: str, found: str, tmp_path: Path
) -> None:
    teachers = [small.teacher(tmp_path, small.detector(teacher))]
    layouts = f'layout of student, 3 classes, {expected} (', f'(found 3 classes, {found})'
    with raises_config_error('teachers[0] (t1)', ANY, *layouts, fix='Use methods on taps alone'):
        small.distiller(tmp_path, small.detector(student), teachers)
    small.distiller(tmp_path, small.detector(student), teachers, methods=hint('neck[0]', 'neck[0]'))


@pytest.mark.parametrize(
    ('student', 'teacher'), [('fcos', 'gfl'), ('gfl', 'atss'), ('yolox', 'rtmdet')]
)
def test_teacher_with_another_kind_of_head_and_the_same_layout_is_accepted(
    student: str, teacher: str, tmp_path: Path
) -> None:
    model = small.distiller(
        tmp_path, small.detector(student), [small.teacher(tmp_path, small.detector(teacher))]
    )
    assert small.losses_of(model, small.batch_for(student))['kd.loss_kd'] > 0


def test_teacher_with_another_activation_is_refused(tmp_path: Path) -> None:
    softmax = dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False)
    config = small.detector('retinanet', bbox_head__loss_cls=softmax)
    teachers = [small.teacher(tmp_path, config)]
    layouts = '3 classes, sigmoid, 5 levels', '(found 3 classes, softmax with background, 5 levels'
    with raises_config_error('teachers[0] (t1)', ANY, *layouts):
        small.distiller(tmp_path, small.detector('retinanet'), teachers)


def test_teacher_with_other_classes_is_refused_unless_they_are_mapped(tmp_path: Path) -> None:
    config = small.detector('retinanet', bbox_head__num_classes=5)
    teacher = small.teacher(tmp_path, config)
    key, student = 'teachers[0] (t1)', small.detector('retinanet')
    with raises_config_error(key, 5, 'the 3 classes of student', fix='Add class_map='):
        small.distiller(tmp_path, student, [teacher])
    model = small.distiller(tmp_path, student, [dict(teacher, class_map=[4, 0, 2], fast=False)])
    inputs = torch.randn(1, 3, 64, 64)
    mapped = model.teachers[0].observe(inputs).scores
    every = scores_of(model.teachers[0].model, dict(inputs=inputs, data_samples=None))
    assert torch.equal(mapped.logits, every.logits[..., [4, 0, 2]])
    with raises_config_error(key, 2, 'the 3 classes of student'):
        small.distiller(tmp_path, student, [dict(teacher, class_map=[4, 0])])
    with raises_config_error(f'{key}.class_map', 5, 'indices below 5'):
        small.distiller(tmp_path, student, [dict(teacher, class_map=[4, 0, 5])])


def test_classifier_and_detector_are_refused_as_teachers_of_each_other(tmp_path: Path) -> None:
    methods = hint('backbone.layer2', 'backbone.layer2')
    detector = small.detector('retinanet')
    with raises_config_error('teachers[0] (t0)', 'classification', 'a model for detection'):
        small.distiller(tmp_path, detector, tiny.teachers(tmp_path, 1), methods=methods)
    teachers = [small.teacher(tmp_path, detector)]
    with raises_config_error('teachers[0] (t1)', 'detection', 'a model for classification'):
        tiny.distiller(tmp_path, teachers=teachers, methods=methods)


def test_labels_image_without_boxes_is_no_image_without_labels(tmp_path: Path) -> None:
    adapter = get_adapter(small.network(small.detector('retinanet')))
    samples = small.batch_for('retinanet')['data_samples']
    assert adapter.labels(samples).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert adapter.labels([small.sample([], [], (8, 8))]).tolist() == [[0, 0, 0]]
    assert not adapter.missing_labels([small.sample([], [], (8, 8))])
    for none in (None, [], [tiny.DataSample()]):
        assert adapter.missing_labels(none)
    model = distiller('retinanet', tmp_path)
    batch = small.batch_for('retinanet')
    for sample in batch['data_samples']:
        del sample.gt_instances
    with raises_config_error('task_weight', 1.0, 'needs labels', fix='task_weight=0'):
        small.losses_of(model, batch)


def test_task_weight_zero_needs_no_label(tmp_path: Path) -> None:
    model = distiller('gfl', tmp_path, task_weight=0)
    batch = small.batch_for('gfl')
    for sample in batch['data_samples']:
        del sample.gt_instances
    losses = small.losses_of(model, batch)
    assert losses.keys() == {'kd.loss_kd'} and losses['kd.loss_kd'] > 0


@pytest.mark.parametrize('family', QUICK)
def test_odd_data_give_finite_losses(family: str, tmp_path: Path) -> None:
    """No box, nothing but crowd, a box of one pixel, odd sizes."""
    # RTMDet needs the divisor, and leaves it to its pipeline.
    config = small.detector(family, data_preprocessor__pad_size_divisor=32)
    model = small.distiller(tmp_path, config)
    nothing = small.sample([], [], (75, 91))
    crowd = small.sample([[4, 4, 60, 60]], [1], (97, 53), crowd=True)
    pixel = small.sample([[30, 30, 31, 31]], [2], (64, 64))
    for samples in ([nothing, nothing], [crowd, crowd], [pixel, nothing]):
        losses = small.losses_of(model, small.batch_of(samples))
        total = small.total(model, losses)
        total.backward()
        assert total.isfinite() and losses['kd.loss_kd'].isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_labels_of_every_head_s_targets_are_read_by_image() -> None:
    """Lists by level with and without an axis of images, and one tensor."""
    levels = ((2, 2, 1), (1, 1, 2))
    labels = torch.tensor([[3, 0, 3, 1, 2, 3], [3, 3, 2, 3, -1, 0]])  # 3 is the background
    expected = torch.tensor([[-1, 0, -1, 1, 2, -1], [-1, -1, 2, -1, -1, 0]])
    boxes = [torch.zeros(2, 4, 4), torch.zeros(2, 2, 4)]
    by_level = list(labels.split([4, 2], dim=1))
    flat = [one.flatten() for one in by_level]
    for targets in ((boxes, by_level), (flat, boxes), (labels, 7, boxes)):
        found = assigned_classes(targets, 3, 2, levels)
        assert found is not None and torch.equal(found, expected)
    by_image = list(labels)
    for targets in ((), (boxes,), (by_image, boxes), (labels.float(), None)):
        assert assigned_classes(targets, 3, 2, levels) is None
