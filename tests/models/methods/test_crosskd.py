"""CrossKD: loops over locations in float64, gradients, the frozen teacher, and refusals."""

import copy
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods import CrossKD
from mmkd_plugin.models.methods.crosskd import _aligned

FAMILIES = ('gfl', 'retinanet', 'fcos', 'atss')
PREDICTIONS = {'gfl': ('gfl_cls', 'gfl_reg'), 'retinanet': ('retina_cls', 'retina_reg')}
BACKGROUND = 0.05


def distiller(folder: Path, family: str, convs: int = 2, divisor: int = 32, **options: Any) -> Any:
    """Build a student with one convolution in each tower that learns from a deeper head.

    The teacher's config pads images to multiples of ``divisor``.
    """
    detector = small.detector(family)
    teacher = copy.deepcopy(detector)
    teacher.bbox_head.stacked_convs = convs
    teacher.data_preprocessor.pad_size_divisor = divisor
    teachers = [small.teacher(folder, teacher)]
    methods = dict(x=dict(type='CrossKD', **options))
    return small.distiller(folder, detector, teachers, methods=methods).train()


def cross_losses(model: Any, family: str) -> dict[str, Tensor]:
    found = small.losses_of(model, small.batch_for(family))
    return {name.removeprefix('x.'): one for name, one in found.items() if name.startswith('x.')}


# The reference: plain loops over levels and locations


def before_relu(conv: Any, maps: Tensor) -> Tensor:
    maps = conv.conv(maps)
    return conv.norm(maps) if conv.with_norm else maps


def cross_maps(model: Any, family: str, inputs: Tensor, align: bool) -> list[dict[str, Tensor]]:
    """Return the maps of cross-head and of own predictions of the teacher, level by level."""
    student, teacher = model.student, model.teachers[0].model
    levels = []
    pyramids = student.extract_feat(inputs), teacher.extract_feat(inputs)
    for level, (x, y) in enumerate(zip(*pyramids, strict=True)):
        found = {}
        for tower, prediction in zip(('cls_convs', 'reg_convs'), PREDICTIONS[family], strict=True):
            own, other = getattr(student.bbox_head, tower), getattr(teacher.bbox_head, tower)
            s, t = before_relu(own[0], x), before_relu(other[0], y)
            if align:
                for channel in range(s.shape[1]):
                    one, two = s[:, channel], t[:, channel]
                    scale = two.std(unbiased=False) / one.std(unbiased=False)
                    s[:, channel] = (one - one.mean()) * scale + two.mean()
            for name, maps in (('cross', s), ('own', t)):
                maps = F.relu(before_relu(other[1], F.relu(maps)))
                maps = getattr(teacher.bbox_head, prediction)(maps)
                if family == 'gfl' and tower == 'reg_convs':
                    maps = maps * teacher.bbox_head.scales[level].scale
                found[f'{name} {tower}'] = maps
        levels.append(found)
    return levels


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def decoded(anchor: list[float], delta: list[float]) -> list[float]:
    """Return corners by the formulas of Fast R-CNN, with means 0 and deviations 1."""
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x = (anchor[0] + anchor[2]) / 2 + delta[0] * width
    y = (anchor[1] + anchor[3]) / 2 + delta[1] * height
    w, h = width * math.exp(delta[2]), height * math.exp(delta[3])
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def giou(a: list[float], b: list[float]) -> float:
    def area(box: list[float]) -> float:
        return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)

    overlap = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    hull = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    union = area(a) + area(b) - overlap
    return overlap / union - (hull - union) / hull


def locations(maps: Tensor, anchors: int) -> list[Any]:
    """Return values by image, row, column and anchor."""
    images, _, rows, columns = maps.shape
    by_place = maps.permute(0, 2, 3, 1).reshape(images, rows, columns, anchors, -1)
    found: list[Any] = by_place.tolist()
    return found


def box_divergence(target: list[float], own: list[float], temperature: float) -> float:
    """Return the mean divergence over the four sides."""
    bins, total = len(own) // 4, 0.0
    for side in range(4):
        p, q = (
            softmax([v / temperature for v in one[side * bins : (side + 1) * bins]])
            for one in (target, own)
        )
        total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return temperature**2 * total / 4


def reference(
    model: Any, family: str, align: bool, temperature: float, positives: float | None
) -> tuple[float, float]:
    """Return the losses of class scores and of boxes, unweighted."""
    batch = model.data_preprocessor(small.batch_for(family), True)
    generator = model.teachers[0].model.bbox_head.prior_generator
    with torch.no_grad():
        levels = cross_maps(model, family, batch['inputs'].double(), align)
    anchors = levels[0]['own cls_convs'].shape[1] // small.CLASSES
    sizes = [one['own cls_convs'].shape[2:] for one in levels]
    priors = generator.grid_priors(sizes, device='cpu')
    scores = boxes = total = every = 0.0
    for level, found in enumerate(levels):
        stride = generator.strides[level][0]
        rows, columns = sizes[level]
        values = {name: locations(one, anchors) for name, one in found.items()}
        for image, sample in enumerate(batch['data_samples']):
            for row, column, anchor in product(range(rows), range(columns), range(anchors)):
                height, width = sample.img_shape
                if row * stride >= height or column * stride >= width:
                    continue
                here = {name: one[image][row][column][anchor] for name, one in values.items()}
                p = [sigmoid(value) for value in here['own cls_convs']]
                q = [sigmoid(value) for value in here['cross cls_convs']]
                for a, b in zip(p, q, strict=True):
                    scores += abs(a - b) * (-a * math.log(b) - (1 - a) * math.log(1 - b))
                total += max(p) if max(p) >= BACKGROUND else 0.0
                every += max(p)
                t, s = here['own reg_convs'], here['cross reg_convs']
                if family == 'gfl':
                    boxes += max(p) * box_divergence(t, s, temperature)
                else:
                    prior = priors[level][(row * columns + column) * anchors + anchor].tolist()
                    boxes += max(p) * (1 - giou(decoded(prior, t), decoded(prior, s)))
    z = max(total, 1.0) if positives is None else positives
    return scores / z, boxes / (every if family == 'gfl' else z)


def number_of_positives(network: Any, batch: Any) -> float:
    """Return the divisor that the head itself uses."""
    head = network.bbox_head
    samples = batch['data_samples']
    with torch.no_grad():
        scores = head(network.extract_feat(batch['inputs'].double()))[0]
    sizes = [one.shape[-2:] for one in scores]
    anchors, flags = head.get_anchors(sizes, [one.metainfo for one in samples], device='cpu')
    objects = [one.gt_instances for one in samples]
    targets = head.get_targets(anchors, flags, objects, [one.metainfo for one in samples])
    return float(targets[-1])


@pytest.mark.parametrize('align', [True, False])
@pytest.mark.parametrize('family', ['gfl', 'retinanet'])
def test_losses_are_those_of_loops_over_locations(family: str, align: bool, tmp_path: Path) -> None:
    options = dict(score_weight=2.0, box_weight=3.0, temperature=2.0)
    normalize = 'positives' if align else 'confidence'
    model = distiller(tmp_path, family, align=align, normalize=normalize, **options).double()
    model.teachers[0].model.double()
    batch = model.data_preprocessor(small.batch_for(family), True)
    found = model(batch['inputs'].double(), batch['data_samples'], mode='loss')
    positives = number_of_positives(model.student, batch) if align else None
    scores, boxes = reference(model, family, align, 2.0, positives)
    assert scores > 0.01 and boxes > 0.01
    assert found['x.loss_scores'].item() == pytest.approx(2.0 * scores, rel=1e-5)
    # MMDet's GFLHead returns boxes in float32.
    assert found['x.loss_boxes'].item() == pytest.approx(3.0 * boxes, rel=1e-4)


@pytest.mark.parametrize('family', FAMILIES)
def test_teacher_with_the_weights_of_the_student_leaves_no_loss(
    family: str, tmp_path: Path
) -> None:
    detector = small.detector(family)
    teacher = small.teacher(tmp_path, detector, 3, fast=False)
    methods = dict(x=dict(type='CrossKD', align=False))
    model = small.distiller(tmp_path, detector, [teacher], methods=methods).train().double()
    model.teachers[0].model.double()
    model.student.load_state_dict(model.teachers[0].model.state_dict())
    batch = model.data_preprocessor(small.batch_for(family), True)
    args = batch['inputs'].double(), batch['data_samples']
    for name in ('x.loss_scores', 'x.loss_boxes'):
        assert model(*args, mode='loss')[name].item() == pytest.approx(0.0, abs=1e-6)
    for tower in (model.student.bbox_head.cls_convs, model.student.bbox_head.reg_convs):
        nn.init.normal_(tower[0].conv.weight)
    found = model(*args, mode='loss')  # a control
    assert found['x.loss_scores'] > 0.01 and found['x.loss_boxes'] > 0.01


@pytest.mark.parametrize('family', FAMILIES)
def test_gradient_reaches_the_student_alone(family: str, tmp_path: Path) -> None:
    model = distiller(tmp_path, family, layer=1)
    teacher = model.teachers[0].model
    found = cross_losses(model, family)
    assert found['loss_scores'] > 0 and found['loss_boxes'] > 0
    (found['loss_scores'] + found['loss_boxes']).backward()
    head = model.student.bbox_head
    assert head.cls_convs[0].conv.weight.grad.any() and head.reg_convs[0].conv.weight.grad.any()
    assert any(one.grad is not None and one.grad.any() for one in model.student.neck.parameters())
    # The student's own predictions learn from the annotations alone.
    own = {id(one) for one in head.parameters()}
    towers = (*head.cls_convs.parameters(), *head.reg_convs.parameters())
    rest = [one for one in head.parameters() if id(one) in own - {id(one) for one in towers}]
    assert rest and all(one.grad is None for one in rest)
    assert all(one.grad is None and not one.requires_grad for one in teacher.parameters())


def test_teacher_stays_as_it_is_and_outside_of_the_module_tree(tmp_path: Path) -> None:
    model = distiller(tmp_path, 'gfl')
    teacher = model.teachers[0].model
    before = {name: one.clone() for name, one in teacher.state_dict().items()}
    names = set(model.state_dict())
    inside = {id(one) for one in model.modules()}
    assert not inside & {id(one) for one in teacher.modules()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        losses = small.losses_of(model, small.batch_for('gfl'))
        optimizer.zero_grad()
        small.total(model, losses).backward()
        optimizer.step()
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(one, before[name]) for name, one in teacher.state_dict().items())
    assert set(model.state_dict()) == names
    assert not any('convs' in name for name in names if not name.startswith('student.'))
    averaged = copy.deepcopy(model)  # as EMA does
    assert averaged.methods['x']._heads[0] is model.methods['x']._heads[0]


def test_other_channels_are_connected_by_one_learned_convolution_a_tower(tmp_path: Path) -> None:
    detector = small.detector('retinanet')
    teacher = small.detector('retinanet', bbox_head__feat_channels=12, bbox_head__stacked_convs=3)
    teachers = [small.teacher(tmp_path, teacher)]
    methods = dict(x=dict(type='CrossKD'))
    model = small.distiller(tmp_path, detector, teachers, methods=methods).train()
    found = cross_losses(model, 'retinanet')
    (found['loss_scores'] + found['loss_boxes']).backward()
    parameters = dict(model.methods['x'].named_parameters())
    shapes = {name: tuple(one.shape) for name, one in parameters.items()}
    assert shapes == {
        f'connectors.0.{tower}.{name}': shape
        for tower in ('cls_convs', 'reg_convs')
        for name, shape in (('weight', (12, 8)), ('bias', (12,)))
    }
    assert all(one.grad is not None for one in parameters.values())


@pytest.mark.parametrize(
    ('weight', 'name', 'tower'),
    [('box_weight', 'loss_scores', 'cls_convs'), ('score_weight', 'loss_boxes', 'reg_convs')],
)
def test_weight_of_0_leaves_its_tower_out(
    weight: str, name: str, tower: str, tmp_path: Path
) -> None:
    full = cross_losses(distiller(tmp_path, 'gfl'), 'gfl')
    model = distiller(tmp_path, 'gfl', **{weight: 0.0})
    found = cross_losses(model, 'gfl')
    assert found.keys() == {name}
    assert found[name].item() == pytest.approx(full[name].item(), rel=1e-5)
    found[name].backward()
    trained = [n for n, p in model.student.bbox_head.named_parameters() if p.grad is not None]
    assert trained and all(one.startswith(tower) for one in trained)


def test_several_teachers_have_the_mean_of_their_losses(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    teachers = [small.teacher(tmp_path, detector, seed) for seed in (1, 2)]
    methods = dict(x=dict(type='CrossKD'))
    found = [
        cross_losses(small.distiller(tmp_path, detector, own, methods=methods).train(), 'gfl')
        for own in (teachers, teachers[:1], teachers[1:])
    ]
    for name in ('loss_scores', 'loss_boxes'):
        both, first, second = (one[name].item() for one in found)
        assert first != second
        assert both == pytest.approx((first + second) / 2, rel=1e-5)


def test_classes_in_another_order_are_mapped(tmp_path: Path) -> None:
    order = [2, 0, 1]
    detector = small.detector('gfl')
    entry = small.teacher(tmp_path, detector)
    saved = torch.load(entry['checkpoint'], weights_only=True)
    for name in ('bbox_head.gfl_cls.weight', 'bbox_head.gfl_cls.bias'):
        permuted = saved['state_dict'][name].clone()
        permuted[order] = saved['state_dict'][name]
        saved['state_dict'][name] = permuted
    other = dict(entry, checkpoint=str(tmp_path / 'permuted.pth'), class_map=order)
    torch.save(saved, other['checkpoint'])
    methods = dict(x=dict(type='CrossKD'))
    found = [
        cross_losses(small.distiller(tmp_path, detector, [one], methods=methods).train(), 'gfl')
        for one in (entry, other)
    ]
    for name in ('loss_scores', 'loss_boxes'):
        assert found[1][name].item() == pytest.approx(found[0][name].item(), rel=1e-5)


@pytest.mark.parametrize('family', ['gfl', 'retinanet'])
def test_padding_in_the_config_of_the_teacher_changes_nothing(family: str, tmp_path: Path) -> None:
    plain = cross_losses(distiller(tmp_path, family), family)
    padded = cross_losses(distiller(tmp_path, family, divisor=64), family)  # 128 for 96 pixels
    for name in ('loss_scores', 'loss_boxes'):
        assert padded[name].item() == pytest.approx(plain[name].item(), rel=1e-6)


@pytest.mark.parametrize('family', ['gfl', 'retinanet'])
def test_cells_that_the_teacher_alone_has_take_no_part(family: str, tmp_path: Path) -> None:
    model = distiller(tmp_path, family, align=False, normalize='confidence')
    method, teacher = model.methods['x'], model.teachers[0]
    seen: list[Any] = []
    hook = method.register_forward_pre_hook(lambda _, args: seen.append(args))
    small.losses_of(model, small.batch_for(family))
    hook.remove()
    [(student, [own], labels)] = seen
    images = torch.rand(2, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    larger = teacher.observe(images)
    kept, start = [], 0
    for (rows, columns, anchors), (of, every, _) in zip(
        own.scores.levels, larger.scores.levels, strict=True
    ):
        grid = start + torch.arange(of * every * anchors).view(of, every, anchors)
        kept.append(grid[:rows, :columns].flatten())
        start += grid.numel()
    index = torch.cat(kept)
    assert len(index) < start
    scores = replace(own.scores, logits=larger.scores.logits[:, index])
    boxes = replace(own.boxes, values=larger.boxes.values[:, index])
    by_hand = replace(own, scores=scores, boxes=boxes)
    expected = method(student, [by_hand], labels)
    found = method(student, [larger], labels)
    for name in ('loss_scores', 'loss_boxes'):
        assert found[name] > 0.01
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-6)


@pytest.mark.parametrize('family', FAMILIES)
def test_level_of_one_cell_and_one_image_has_a_finite_gradient(family: str, tmp_path: Path) -> None:
    """There all variances are 0; the coarsest level of 96 pixels has one cell."""
    model = distiller(tmp_path, family)
    raw = small.batch_of([small.sample([[8, 8, 40, 40]], [0], (96, 96))])
    found = small.losses_of(model, raw)
    (found['x.loss_scores'] + found['x.loss_boxes']).backward()
    gradients = [one.grad for one in model.student.parameters() if one.grad is not None]
    assert gradients and all(one.isfinite().all() for one in gradients)
    assert any(one.any() for one in gradients)


def test_channel_that_is_constant_in_the_teacher_is_constant_in_the_aligned_map() -> None:
    student = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    teacher = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    teacher[:, 1] = 0.5
    student.requires_grad_()
    found = _aligned(student, teacher)
    assert torch.allclose(found[:, 1], torch.tensor(0.5))
    for channel in (0, 2):
        for statistic in (torch.mean, torch.var):
            torch.testing.assert_close(
                statistic(found[:, channel]), statistic(teacher[:, channel]), rtol=1e-4, atol=1e-5
            )
    (found * torch.arange(4.0)).sum().backward()
    assert student.grad is not None and student.grad.isfinite().all()
    assert not student.grad[:, 1].any() and student.grad[:, 0].any()


@pytest.mark.parametrize('precision', [None, 'fp32', 'bf16'])
def test_losses_under_autocast_are_float32_and_near_those_without(
    precision: str | None, tmp_path: Path
) -> None:
    detector = small.detector('retinanet')
    teachers = [small.teacher(tmp_path, detector, precision=precision)]
    methods = dict(x=dict(type='CrossKD'))
    model = small.distiller(tmp_path, detector, teachers, methods=methods).train()
    plain = cross_losses(model, 'retinanet')
    with torch.autocast('cpu', torch.bfloat16):
        found = cross_losses(model, 'retinanet')
    for name, one in found.items():
        assert one.dtype == torch.float32
        assert one.item() == pytest.approx(plain[name].item(), rel=0.1)
    sum(found.values()).backward()
    assert model.student.bbox_head.cls_convs[0].conv.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ('student', 'teacher', 'layer', 'remaining'), [(4, 4, 3, 1), (1, 2, 1, 1), (2, 1, 1, 0)]
)
def test_default_cut_depends_on_the_lengths_of_the_towers(
    student: int, teacher: int, layer: int, remaining: int, tmp_path: Path
) -> None:
    own, other = (small.detector('gfl', bbox_head__stacked_convs=one) for one in (student, teacher))
    methods = dict(x=dict(type='CrossKD'))
    teachers = [small.teacher(tmp_path, other)]
    model = small.distiller(tmp_path, own, teachers, methods=methods)
    taps = model._requests['x']
    first, of_teacher = f'bbox_head.cls_convs.{layer - 1}.', taps.teachers[0][0]
    assert taps.student[0].startswith(first) and len(taps.student) == 10
    assert of_teacher.startswith(f'bbox_head.cls_convs.{teacher - remaining - 1}.')


# Refusals


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        *(('score_weight', -1.0), ('box_weight', math.inf), ('beta', 0.0), ('temperature', 0)),
        *(('layer', 0), ('layer', 1.5), ('remaining', -1), ('remaining', True), ('align', 1)),
        ('normalize', 'mean'),
    ],
)
def test_value_out_of_range_is_refused(key: str, value: Any) -> None:
    with raises_config_error(key, value):
        CrossKD(**{key: value})


def test_run_without_the_losses_of_the_student_needs_another_divisor(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    for normalize in ('positives', 'confidence'):
        methods = dict(x=dict(type='CrossKD', normalize=normalize))
        model = small.distiller(tmp_path, detector, methods=methods, task_weight=0.0).train()
        if normalize == 'confidence':
            assert cross_losses(model, 'gfl')['loss_scores'] > 0
            continue
        with raises_config_error('methods.x.normalize', 'positives', fix='confidence'):
            cross_losses(model, 'gfl')


@pytest.mark.parametrize(('key', 'value'), [('layer', 2), ('remaining', 2)])
def test_cut_behind_the_towers_is_refused(key: str, value: int, tmp_path: Path) -> None:
    with raises_config_error(f'methods.x.{key}', value, 'number of convolutions'):
        distiller(tmp_path, 'gfl', **{key: value})


@pytest.mark.parametrize(
    ('family', 'found'),
    [
        *(('yolox', 'YOLOXHead'), ('ssd', 'SSDHead'), ('rtmdet', 'RTMDetSepBNHead')),
        *(('faster_rcnn', 'FasterRCNN'), ('deformable_detr', 'DeformableDETR')),
    ],
)
def test_detector_without_towers_is_refused(family: str, found: str, tmp_path: Path) -> None:
    methods = dict(x=dict(type='CrossKD'))
    with raises_config_error('methods.x.type', found, 'towers', fix='SoftTarget'):
        small.distiller(tmp_path, small.detector(family), methods=methods)


def test_classifier_is_refused(tmp_path: Path) -> None:
    with raises_config_error('methods.x.type', ANY, 'one-stage', fix='SoftTarget'):
        tiny.distiller(tmp_path, methods=dict(x=dict(type='CrossKD')))


@pytest.mark.parametrize(
    ('option', 'value', 'words'),
    [
        ('num_classes', 4, ('3', '4')),
        ('reg_max', 8, ('17', '9')),
        ('anchor_generator__strides', [8, 16, 32, 64], ('5 levels', '4 levels')),
    ],
)
def test_other_layout_is_refused_with_both(
    option: str, value: Any, words: tuple[str, str], tmp_path: Path
) -> None:
    detector = small.detector('gfl')
    other = small.detector('gfl', **{f'bbox_head__{option}': value})
    if 'strides' in option:
        other.neck.num_outs = len(value)
    config = dict(
        type='mmkd_plugin.Distiller',
        student=detector,
        teachers=[small.teacher(tmp_path, other)],
        methods=dict(x=dict(type='CrossKD')),
    )
    init_default_scope('mmdet')
    with pytest.raises(ConfigError) as error:
        ROOT_MODELS.build(config)
    assert all(word in str(error.value) for word in words)


def test_other_anchors_are_refused_with_both(tmp_path: Path) -> None:
    other = small.detector('retinanet', bbox_head__anchor_generator__octave_base_scale=2)
    teachers = [small.teacher(tmp_path, other)]
    methods = dict(x=dict(type='CrossKD'))
    with pytest.raises(ConfigError, match='the first anchor') as error:
        small.distiller(tmp_path, small.detector('retinanet'), teachers, methods=methods)
    assert str(error.value).count('the first anchor') == 2


@pytest.mark.parametrize(
    ('option', 'key', 'words', 'fix'),
    [
        ('replay', 'methods.x.type', 'a store has no head', 'replay'),
        ('standardize', 'methods.x.align', 'standardize', 'align=False'),
    ],
)
def test_teacher_whose_head_or_scale_is_missing_is_refused(
    option: str, key: str, words: str, fix: str, tmp_path: Path
) -> None:
    detector = small.detector('gfl')
    value = dict(path=str(tmp_path / 'store')) if option == 'replay' else dict(batches=2)
    teacher = {**small.teacher(tmp_path, detector), option: value}
    methods = dict(x=dict(type='CrossKD'))
    with raises_config_error(key, ANY, words, fix=fix):
        small.distiller(tmp_path, detector, [teacher], methods=methods)


def test_peers_are_refused() -> None:
    init_default_scope('mmdet')
    peers = [dict(name=name, model=small.detector('gfl')) for name in 'ab']
    methods = dict(x=dict(type='CrossKD'))
    config = dict(type='mmkd_plugin.MutualDistiller', peers=peers, methods=methods)
    with pytest.raises(ConfigError, match='frozen teacher') as error:
        ROOT_MODELS.build(config)
    assert error.value.key.endswith('x.type') and 'SoftTarget' in error.value.fix
