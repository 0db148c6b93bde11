"""PKD, CWD, MGD and FGD in small distillers of classifiers and detectors, and alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.classification import built, output
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.engine.optim_wrappers import PeerOptimWrappers
from mmkd_plugin.models.connectors.global_context import GlobalContext
from mmkd_plugin.models.losses import cwd_loss, hint_loss, mgd_loss, pkd_loss
from mmkd_plugin.models.losses.fgd import fgd_focal_losses, object_masks
from mmkd_plugin.models.methods import AMTMLKD, CWD, FGD, MGD, PKD, GroupHints
from mmkd_plugin.outputs import NetworkOutput, ObjectBoxes

PAIR = [dict(student='a', teacher='a')]
EQUAL = output(a=torch.randn(2, 4, 6, 6)), output(a=torch.randn(2, 4, 6, 6))
OTHER = output(a=torch.randn(2, 3, 6, 6)), output(a=torch.randn(2, 5, 3, 3))
PYRAMID = [dict(student=f'neck[{n}]', teacher=f'neck[{n}]') for n in range(3)]
LOSSES = dict(
    PKD=['loss_pkd'],
    CWD=['loss_cwd'],
    MGD=['loss_mgd'],
    FGD=['loss_foreground', 'loss_background', 'loss_attention', 'loss_relation'],
)


def with_boxes(student: NetworkOutput, *boxes: list[list[float]]) -> NetworkOutput:
    corners = tuple(torch.tensor(one).reshape(-1, 4) for one in boxes)
    return replace(student, objects=ObjectBoxes(corners, (48, 48)))


@pytest.mark.parametrize(
    ('method', 'loss', 'weight'), [(PKD, pkd_loss, 6.0), (CWD, cwd_loss, 10.0)]
)
def test_default_weight_multiplies_the_loss_without_connector(
    method: Any, loss: Any, weight: float
) -> None:
    student, teacher = EQUAL
    one = built(method(PAIR), student, [teacher])
    [value] = one(student, [teacher], None).values()
    torch.testing.assert_close(value, weight * loss(student.feature('a'), teacher.feature('a')))
    assert not list(one.parameters())


def test_cwd_passes_its_temperature_on() -> None:
    student, teacher = EQUAL
    one = built(CWD(PAIR, temperature=4.0, loss_weight=1.0), student, [teacher])
    expected = cwd_loss(student.feature('a'), teacher.feature('a'), 4.0)
    torch.testing.assert_close(one(student, [teacher], None)['loss_cwd'], expected)
    assert CWD(PAIR).temperature == 1.0


@pytest.mark.parametrize('method', [PKD, CWD, MGD, FGD])
def test_other_channels_have_a_convolution_that_learns(method: Any) -> None:
    student, teacher = OTHER
    one = built(method(PAIR), student, [teacher])
    assert one.connectors[0].weight.shape == (5, 3)
    losses = one(with_boxes(student, [[0.0, 0, 20, 20]], []), [teacher], None)
    sum(losses.values()).backward()
    assert one.connectors[0].weight.grad.abs().sum() > 0


def test_mgd_draws_one_mask_for_all_channels_in_training_alone() -> None:
    student, teacher = EQUAL
    method = built(MGD(PAIR, mask_ratio=0.5, loss_weight=1.0), student, [teacher])
    torch.manual_seed(3)
    first = method(student, [teacher], None)['loss_mgd']
    second = method(student, [teacher], None)['loss_mgd']
    torch.manual_seed(3)
    again = method(student, [teacher], None)['loss_mgd']
    torch.manual_seed(3)
    mask = torch.rand(2, 1, 6, 6) >= 0.5
    expected = mgd_loss(method.generators[0](student.feature('a') * mask), teacher.feature('a'))
    assert torch.equal(first, again) and not torch.equal(first, second)
    torch.testing.assert_close(first, expected)
    method.eval()
    state = torch.get_rng_state()
    plain = method(student, [teacher], None)['loss_mgd']
    expected = mgd_loss(method.generators[0](student.feature('a')), teacher.feature('a'))
    torch.testing.assert_close(plain, expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_mgd_trains_its_generator() -> None:
    student, teacher = EQUAL
    method = built(MGD(PAIR), student, [teacher])
    method(student, [teacher], None)['loss_mgd'].backward()
    assert len(list(method.parameters())) == 4
    assert all(p.grad.abs().sum() > 0 for p in method.parameters())
    assert method.loss_weight == 2e-5 and method.mask_ratio == 0.65


def test_fgd_adds_its_parts_with_their_weights() -> None:
    student, teacher = EQUAL
    student = with_boxes(student, [[0.0, 0, 20, 30]], [])
    method = built(FGD(PAIR), student, [teacher])
    found = method(student, [teacher], None)
    own, target = student.feature('a'), teacher.feature('a')
    masks = object_masks(student.objects.boxes, (48, 48), (6, 6))
    parts = fgd_focal_losses(own, target, *masks)
    parts = [*parts, mgd_loss(own, target)]  # the context starts as the identity
    for name, weight, part in zip(LOSSES['FGD'], (1e-3, 5e-4, 1e-3, 5e-6), parts, strict=True):
        torch.testing.assert_close(found[name], weight * part)


def test_fgd_without_relation_builds_no_context() -> None:
    student, teacher = EQUAL
    method = built(FGD(PAIR, relation_weight=0.0), student, [teacher])
    assert not list(method.parameters())
    found = method(with_boxes(student, [], []), [teacher], None)
    assert [*found] == LOSSES['FGD'][:3]
    assert found['loss_foreground'] == 0 and all(x.isfinite() for x in found.values())


def test_global_context_equals_loops() -> None:
    block, x = GlobalContext(4).double(), torch.randn(2, 4, 2, 3).double()
    torch.nn.init.normal_(block.transform[-1].weight)
    found = block(x)
    for n in range(2):
        scores = [(block.attention.weight[0, :, 0, 0] @ x[n, :, i, j]) for i in range(2)
                  for j in range(3)]  # fmt: skip
        weights = torch.stack(scores).float().softmax(dim=0).double()
        vectors = [x[n, :, i, j] for i in range(2) for j in range(3)]
        context = sum(w * one for w, one in zip(weights, vectors, strict=True))
        expected = x[n] + block.transform(context)[:, None, None]
        torch.testing.assert_close(found[n], expected)


@pytest.mark.parametrize(
    ('method', 'options', 'key'),
    [
        (MGD, dict(mask_ratio=1.0), 'mask_ratio'),
        (MGD, dict(mask_ratio=-0.1), 'mask_ratio'),
        (CWD, dict(temperature=0.0), 'temperature'),
        (FGD, dict(temperature=-1), 'temperature'),
        (FGD, dict(relation_weight=-1.0), 'relation_weight'),
        (PKD, dict(loss_weight=-1.0), 'loss_weight'),
    ],
)
def test_setting_out_of_range_is_refused(method: Any, options: Any, key: str) -> None:
    with raises_config_error(key, options[key]):
        method(PAIR, **options)


@pytest.mark.parametrize('name', ['PKD', 'CWD', 'MGD'])
def test_classifier_learns_from_a_method_on_maps(tmp_path: Path, name: str) -> None:
    pairs = [dict(student='backbone.layer3', teacher='backbone.layer3')]
    model = tiny.distiller(tmp_path, methods=dict(m=dict(type=name, pairs=pairs)))
    loss = tiny.losses_of(model)[f'm.{LOSSES[name][0]}']
    loss.backward()
    assert loss > 0
    assert all(p.grad is not None for p in model.methods.parameters())


def test_classifier_is_refused_by_fgd(tmp_path: Path) -> None:
    pairs = [dict(student='backbone.layer3', teacher='backbone.layer3')]
    with raises_config_error('methods.m.type', 'ImageClassifier', fix="type='PKD'"):
        tiny.distiller(tmp_path, methods=dict(m=dict(type='FGD', pairs=pairs)))


@pytest.mark.parametrize('family', ['gfl', 'retinanet', 'faster_rcnn'])
def test_detector_learns_from_every_method_on_maps(tmp_path: Path, family: str) -> None:
    methods = {name: dict(type=name, pairs=PYRAMID) for name in LOSSES}
    model = small.distiller(tmp_path, small.detector(family), methods=methods)
    losses = small.losses_of(model, small.batch_for(family))
    for name, parts in LOSSES.items():
        assert all(losses[f'{name}.{part}'] > 0 for part in parts)
    small.total(model, losses).backward()
    assert all(p.grad is not None for p in model.methods.parameters())
    assert all(p.grad is None for one in model.teachers for p in one.model.parameters())


def test_batch_without_boxes_is_background_alone(tmp_path: Path) -> None:
    methods = dict(fgd=dict(type='FGD', pairs=PYRAMID))
    model = small.distiller(tmp_path, small.detector('gfl'), methods=methods)
    batch = small.batch_of([small.sample([], [], (96, 96)) for _ in range(2)])
    losses = small.losses_of(model, batch)
    assert losses['fgd.loss_foreground'] == 0 and losses['fgd.loss_background'] > 0
    small.total(model, losses).backward()
    grads = [p.grad for p in model.methods.parameters()]
    assert all(one is not None and one.isfinite().all() for one in grads)


def test_unlabelled_batch_is_refused_by_fgd(tmp_path: Path) -> None:
    methods = dict(fgd=dict(type='FGD', pairs=PYRAMID))
    model = small.distiller(tmp_path, small.detector('gfl'), methods=methods, task_weight=0)
    batch = small.batch_for('gfl')
    for one in batch['data_samples']:
        del one.gt_instances
    with raises_config_error('methods.fgd', ANY, 'boxes'):
        small.losses_of(model, batch)


def test_boxes_are_those_of_the_padded_images(tmp_path: Path) -> None:
    seen: list[ObjectBoxes] = []
    model = small.distiller(
        tmp_path, small.detector('gfl'), methods=dict(fgd=dict(type='FGD', pairs=PYRAMID))
    )
    model.methods['fgd'].register_forward_pre_hook(lambda _, args: seen.append(args[0].objects))
    small.losses_of(model, small.batch_for('gfl'))
    first, second = seen[0].boxes
    assert first.tolist() == [[8, 8, 40, 40], [30, 20, 80, 60]]
    assert second.tolist() == [[10, 12, 50, 44]]
    assert seen[0].size == (96, 96)


@pytest.mark.slow
@pytest.mark.parametrize('order', ['alternating', 'simultaneous'])
def test_peers_learn_from_each_other(order: str) -> None:
    peers = [dict(name=name, model=small.detector('gfl')) for name in 'ab']
    methods = {name.lower(): dict(type=name, pairs=PYRAMID) for name in LOSSES}
    config = dict(type='mmkd_plugin.MutualDistiller', peers=peers, methods=methods, order=order)
    model = ROOT_MODELS.build(config)
    for seed, name in enumerate('ab'):
        small.varied(model.network(name), seed)
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=1e-4)))(model.train())
    logged = model.train_step(small.batch_for('gfl'), wrappers)
    for peer in 'ab':
        for name, parts in LOSSES.items():
            assert all(logged[f'{peer}.{name.lower()}.{part}'] > 0 for part in parts)


def test_group_hints_take_another_loss() -> None:
    student = output(low=torch.randn(2, 4, 8, 8), high=torch.randn(2, 6, 4, 4))
    teachers = [output(last=torch.randn(2, 5, 4, 4)) for _ in range(2)]
    options = dict(mapping=[0, 1], loss_weight=3.0)
    hints = built(GroupHints(['low', 'high'], 'last', **options), student, teachers)
    config = dict(type='CWDLoss', temperature=2.0)
    other = built(GroupHints(['low', 'high'], 'last', loss=config, **options), student, teachers)
    other.regressors.load_state_dict(hints.regressors.state_dict())
    maps = [
        (regressor(student.feature(tap), (4, 4)), teacher.feature('last'))
        for regressor, tap, teacher in zip(hints.regressors, ('low', 'high'), teachers, strict=True)
    ]
    for method, loss in ((hints, hint_loss), (other, lambda s, t: cwd_loss(s, t, 2.0))):
        expected = 3 * sum(loss(*pair) for pair in maps)
        torch.testing.assert_close(method(student, teachers, None)['loss_hint'], expected)
    with raises_config_error('loss.type', 'CKALoss', fix='RelationMethod'):
        GroupHints(['low'], 'last', loss=dict(type='CKALoss'))


def test_amtml_kd_takes_another_loss_of_its_hints() -> None:
    options = dict(student_groups=['low'], teacher_taps='last', mapping=[0])
    assert isinstance(AMTMLKD(**options).hints, GroupHints)
    hints = AMTMLKD(**options, hint_loss=dict(type='CWDLoss', loss_weight=5.0)).hints
    assert hints is not None and repr(hints.loss) == 'CWDLoss(loss_weight=5.0, temperature=1.0)'
