from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import mmcv.ops
import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.forbid import forbid
from mmdet.models.dense_heads import GFLHead, RetinaHead
from mmdet.registry import MODELS as MMDET_MODELS
from torch import Tensor, nn

from mmkd_plugin.adapters import DenseDetectorHost, host_of
from mmkd_plugin.adapters.dense_detector import _joint
from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.models.methods.scores import foreground
from mmkd_plugin.outputs import ClassScores

QUICK = [family for family in small.DENSE if family != 'ssd']
EVERY = [*QUICK, pytest.param('ssd', marks=pytest.mark.slow)]


def taught(family: str, folder: Path, **changes: Any) -> Any:
    shape = dict(probe_shape=(3, 300, 300)) if family == 'ssd' else {}
    return small.distiller(folder, small.detector(family), **shape, **changes)


def scores_of(model: nn.Module, batch: Any) -> ClassScores:
    host = host_of(model)
    with torch.no_grad(), FeatureTaps(model, host.score_taps).record(model) as features:
        host.run(model, batch['inputs'], scores=True)
    scores = host.knowledge(model, features, batch['inputs'], batch['data_samples']).logits
    assert isinstance(scores, ClassScores)
    return scores


def preprocessed(model: nn.Module, raw: Any) -> Any:
    return model.data_preprocessor(raw, False)


@pytest.mark.parametrize('family', EVERY)
def test_a_stock_detector_takes_a_step_as_student_and_as_teacher(
    family: str, tmp_path: Path
) -> None:
    pairs = [dict(student='neck[-1]', teacher='neck[-1]')]
    methods = dict(kd=dict(type='SoftTarget', temperature=2.0), hint=dict(type='Hint', pairs=pairs))
    model = taught(family, tmp_path, methods=methods)
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
    moved = [
        name
        for name, value in model.student.state_dict().items()
        if not torch.equal(value, before[name])
    ]
    assert any(name.startswith('bbox_head') for name in moved) and any(
        name.startswith('backbone') for name in moved
    )
    assert all(
        torch.equal(value, frozen[name])
        for name, value in model.teachers[0].model.state_dict().items()
    )
    assert not any(
        p.requires_grad or p.grad is not None for p in model.teachers[0].model.parameters()
    )


@pytest.mark.parametrize('family', QUICK)
def test_scores_reach_the_head_and_the_backbone_and_no_teacher(family: str, tmp_path: Path) -> None:
    model = taught(family, tmp_path)
    loss = small.losses_of(model, small.batch_for(family))['kd.loss_kd']
    loss.backward()
    reached = {
        name
        for name, p in model.student.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert any(name.startswith('bbox_head') for name in reached)
    assert any(name.startswith('backbone') for name in reached)
    assert not any('_reg.' in name for name in reached), 'boxes are none of its business'


@pytest.mark.parametrize('family', QUICK)
def test_each_place_has_the_scores_that_the_head_gave_it(family: str) -> None:
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
            place = start + (row * columns + column) * anchors + anchor
            expected = raw[1, anchor * width : (anchor + 1) * width, row, column].sigmoid()
            if family == 'yolox':
                expected = expected * outputs[2][level][1, 0, row, column].sigmoid()
            torch.testing.assert_close(scores.logits[1, place].sigmoid(), expected)
        start += rows * columns * anchors
    assert scores.logits.shape == (2, start, width)
    assert (scores.activation, scores.classes) == (
        'softmax' if family == 'ssdlite' else 'sigmoid',
        small.CLASSES,
    )


def test_ssd_has_a_softmax_with_the_background_last() -> None:
    model = small.network(small.detector('ssdlite')).eval()
    batch = preprocessed(model, small.batch_for('ssdlite'))
    scores = scores_of(model, batch)
    assert (scores.activation, scores.classes) == ('softmax', small.CLASSES)
    assert scores.logits.shape[-1] == small.CLASSES + 1
    # MMDet predicts of the foreground's columns alone: its surest box has the score of our surest place.
    with patch.object(
        model.bbox_head, 'loss_cls', Mock(custom_cls_channels=False), create=True
    ):  # MMDet 3.3 forgot it
        predicted = model(**batch, mode='predict')
    torch.testing.assert_close(
        foreground(scores)[0].max(), predicted[0].pred_instances.scores.max()
    )


@pytest.mark.parametrize('family', QUICK)
def test_training_and_asking_give_the_same_scores(family: str) -> None:
    model = small.network(small.detector(family)).eval()
    batch = preprocessed(model, small.batch_for(family))
    host = host_of(model)
    with FeatureTaps(model, host.score_taps).record(model) as features:
        model(**batch, mode='loss')
    trained = host.knowledge(model, features, batch['inputs']).logits
    assert torch.equal(trained.logits, scores_of(model, batch).logits)
    assert trained.logits.requires_grad


@pytest.mark.parametrize('family', QUICK)
def test_places_in_the_padding_are_those_that_mmdet_calls_invalid(family: str) -> None:
    model = small.network(small.detector(family)).eval()
    batch = preprocessed(model, small.batch_for(family))
    scores = scores_of(model, batch)
    for index, sample in enumerate(batch['data_samples']):
        sizes = [level[:2] for level in scores.levels]
        flags = model.bbox_head.prior_generator.valid_flags(sizes, sample.img_shape, device='cpu')
        assert torch.equal(scores.valid[index], torch.cat(flags).bool())
    assert scores.valid[0].all() and not scores.valid[1].all()


@pytest.mark.parametrize('family', QUICK)
def test_a_teacher_does_the_least_work(family: str, tmp_path: Path) -> None:
    """No assigner, sampler, loss, prior, decoding or NMS."""
    config = small.detector(family)
    teacher = Teacher(config, small.checkpoint(tmp_path, config))
    teacher.tap(['backbone[0]'], needs_scores=True)
    head = teacher.model.bbox_head
    with ExitStack() as forbidden:
        forbid(
            forbidden,
            teacher.model,
            'forward',
            'loss',
            'predict',
            '_forward',
            'add_pred_to_datasample',
        )
        forbid(forbidden, head, 'loss', 'loss_by_feat', 'predict', 'predict_by_feat', 'get_targets')
        forbid(
            forbidden,
            head.prior_generator,
            'grid_priors',
            'valid_flags',
            'single_level_grid_priors',
        )
        for part, work in dict(
            assigner='assign', sampler='sample', loss_cls='forward', loss_bbox='forward'
        ).items():
            forbid(forbidden, getattr(head, part, None), work)
        forbid(forbidden, getattr(head, 'bbox_coder', None), 'decode', 'encode')
        forbid(forbidden, mmcv.ops, 'nms', 'batched_nms')
        seen = teacher(torch.randn(2, 3, 96, 96))
    assert isinstance(seen.logits, ClassScores)
    assert not seen.logits.logits.requires_grad


def test_without_scores_the_head_does_not_run_and_what_lies_behind_the_deepest_tap_neither(
    tmp_path: Path,
) -> None:
    config = small.detector('retinanet')
    teacher = Teacher(config, small.checkpoint(tmp_path, config))
    ran: list[str] = []
    for name in ('backbone.layer3', 'backbone.layer4', 'neck', 'bbox_head'):
        teacher.model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: ran.append(name)
        )
    teacher.tap(['backbone.layer3'], needs_scores=False)
    teacher(torch.randn(1, 3, 64, 64))
    assert ran == ['backbone.layer3']
    ran.clear()
    teacher.tap(['bbox_head[1][0]'], needs_scores=False)  # what lies in the head can be tapped too
    assert teacher(torch.randn(1, 3, 64, 64)).features['bbox_head[1][0]'].shape == (1, 36, 8, 8)
    assert ran == ['backbone.layer3', 'backbone.layer4', 'neck', 'bbox_head']


def test_the_joint_logit_is_that_of_the_product_however_sure_both_are() -> None:
    classes = torch.tensor([-30.0, -2.0, 0.0, 3.0, 12.0], dtype=torch.float64)
    objects = torch.tensor([4.0, -1.0, 0.0, 5.0, 12.0], dtype=torch.float64)
    product = classes.sigmoid() * objects.sigmoid()
    torch.testing.assert_close(_joint(classes, objects), (product / (1 - product)).log())
    extreme = torch.tensor([-500.0, 500.0, 500.0], requires_grad=True)
    other = torch.tensor([500.0, 500.0, -500.0])
    joint = _joint(extreme, other)
    joint.sum().backward()
    assert joint.isfinite().all() and extreme.grad.isfinite().all()
    assert joint[0].item() == pytest.approx(-500.0) and joint[1] > 20


@MMDET_MODELS.register_module(force=True)
class OtherLoss(RetinaHead):
    """Trains differently; its scores are RetinaNet's."""

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {'loss_cls': args[0][0].sum()}


@MMDET_MODELS.register_module(force=True)
class OtherScores(GFLHead):
    """Gives probabilities where GFL gives logits."""

    def forward_single(self, x: Tensor, scale: Any) -> Any:
        scores, boxes = super().forward_single(x, scale)
        return scores.sigmoid(), boxes


def test_a_subclass_is_known_by_its_forward(tmp_path: Path) -> None:
    known = host_of(small.network(small.detector('retinanet', bbox_head__type='OtherLoss')))
    unknown = host_of(small.network(small.detector('gfl', bbox_head__type='OtherScores')))
    assert isinstance(known, DenseDetectorHost) and isinstance(unknown, DenseDetectorHost)
    assert len(known.score_taps) == 5
    assert unknown.score_taps == ()
    with pytest.raises(
        ValueError,
        match=r'^student: expected a model whose class scores are known, got GFL: of a OtherScores',
    ):
        small.distiller(tmp_path, small.detector('gfl', bbox_head__type='OtherScores'))


@pytest.mark.parametrize(
    ('student', 'teacher', 'expected', 'found'),
    [
        (
            'retinanet',
            'gfl',
            r'at 5 levels .* 8x8x9, 4x4x9, 2x2x9, 1x1x9, 1x1x9',
            r'at 5 levels .* 8x8x1, 4x4x1, 2x2x1',
        ),
        (
            'gfl',
            'rtmdet',
            r'at 5 levels .* 8x8x1, 4x4x1, 2x2x1, 1x1x1, 1x1x1',
            r'at 3 levels .* 8x8x1, 4x4x1, 2x2x1\.',
        ),
    ],
)
def test_another_layout_is_an_error_that_shows_both(
    student: str, teacher: str, expected: str, found: str, tmp_path: Path
) -> None:
    taught = [small.teacher(tmp_path, small.detector(teacher))]
    who = r'^teachers\[0\] \(t1\): expected class scores in the layout of the student'
    message = rf'{who}, 3 classes, sigmoid {expected}; got 3 classes, sigmoid {found}'
    with pytest.raises(ValueError, match=message):
        small.distiller(tmp_path, small.detector(student), taught)
    pairs = [dict(student='neck[0]', teacher='neck[0]')]
    small.distiller(
        tmp_path, small.detector(student), taught, methods=dict(hint=dict(type='Hint', pairs=pairs))
    )


@pytest.mark.parametrize(
    ('student', 'teacher'), [('fcos', 'gfl'), ('gfl', 'atss'), ('yolox', 'rtmdet')]
)
def test_heads_of_another_kind_with_the_same_layout_can_teach(
    student: str, teacher: str, tmp_path: Path
) -> None:
    model = small.distiller(
        tmp_path, small.detector(student), [small.teacher(tmp_path, small.detector(teacher))]
    )
    assert small.losses_of(model, small.batch_for(student))['kd.loss_kd'] > 0


def test_another_activation_is_another_layout(tmp_path: Path) -> None:
    softmax = dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False)
    taught = [small.teacher(tmp_path, small.detector('retinanet', bbox_head__loss_cls=softmax))]
    with pytest.raises(
        ValueError, match=r'3 classes, sigmoid at 5 .*; got 3 classes, softmax with background at 5'
    ):
        small.distiller(tmp_path, small.detector('retinanet'), taught)


def test_other_classes_are_an_error_unless_they_are_mapped(tmp_path: Path) -> None:
    config = small.detector('retinanet', bbox_head__num_classes=5)
    taught = small.teacher(tmp_path, config)
    message = r'^teachers\[0\] \(t1\): expected the 3 classes of the student, got 5; say which are meant: class_map='
    with pytest.raises(ValueError, match=message):
        small.distiller(tmp_path, small.detector('retinanet'), [taught])
    model = small.distiller(
        tmp_path, small.detector('retinanet'), [dict(taught, class_map=[4, 0, 2])]
    )
    inputs = torch.randn(1, 3, 64, 64)
    seen = model.teachers[0](inputs).logits
    every = scores_of(model.teachers[0].model, dict(inputs=inputs, data_samples=None))
    assert torch.equal(seen.logits, every.logits[..., [4, 0, 2]])
    for wrong, found in (
        ([4, 0], 'classes of the student, got 2'),
        ([4, 0, 5], r'indices below 5, .*, got 5'),
    ):
        with pytest.raises(ValueError, match=rf'^teachers\[0\] \(t1\).*expected .*{found}'):
            small.distiller(tmp_path, small.detector('retinanet'), [dict(taught, class_map=wrong)])


def test_a_classifier_cannot_teach_a_detector_nor_a_detector_a_classifier(tmp_path: Path) -> None:
    pairs = [dict(student='backbone.layer2', teacher='backbone.layer2')]
    methods = dict(hint=dict(type='Hint', pairs=pairs))
    message = r'^teachers\[0\] \(t0\): expected a model for detection, as the student is, got one for classification'
    with pytest.raises(ValueError, match=message):
        small.distiller(
            tmp_path, small.detector('retinanet'), tiny.teachers(tmp_path, 1), methods=methods
        )
    message = r'^teachers\[0\] \(t1\): expected a model for classification, as the student is, got one for detection'
    with pytest.raises(ValueError, match=message):
        tiny.distiller(
            tmp_path,
            teachers=[small.teacher(tmp_path, small.detector('retinanet'))],
            methods=methods,
        )


def test_images_without_boxes_are_no_images_without_labels(tmp_path: Path) -> None:
    host = host_of(small.network(small.detector('retinanet')))
    samples = small.batch_for('retinanet')['data_samples']
    assert host.labels(samples).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert host.labels([small.sample([], [], (8, 8))]).tolist() == [[0, 0, 0]]
    assert not host.missing_labels([small.sample([], [], (8, 8))])
    for none in (None, [], [tiny.DataSample()]):
        assert host.missing_labels(none)
    model = taught('retinanet', tmp_path)
    batch = small.batch_for('retinanet')
    for sample in batch['data_samples']:
        del sample.gt_instances
    with pytest.raises(ValueError, match=r'^task_weight: expected labels in the training data'):
        small.losses_of(model, batch)


def test_no_label_is_touched_without_a_task_weight(tmp_path: Path) -> None:
    model = taught('gfl', tmp_path, task_weight=0)
    batch = small.batch_for('gfl')
    for sample in batch['data_samples']:
        del sample.gt_instances
    losses = small.losses_of(model, batch)
    assert losses.keys() == {'kd.loss_kd'} and losses['kd.loss_kd'] > 0


@pytest.mark.parametrize('family', QUICK)
def test_odd_data_give_finite_losses(family: str, tmp_path: Path) -> None:
    """No box, nothing but crowd, a box of one pixel, odd sizes."""
    config = small.detector(
        family, data_preprocessor__pad_size_divisor=32
    )  # RTMDet needs it, and leaves it to its pipeline
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
