"""DIST, DKD, NKD, RKD and standardised logits as methods: alone, mixed, between peers."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.classification import built, output
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.adapters import Probe
from mmkd_plugin.engine import PeerOptimWrappers
from mmkd_plugin.models import losses
from mmkd_plugin.models.methods import AMTMLKD, DIST, DKD, NKD, RKD, SoftTarget, tap_checks
from mmkd_plugin.models.methods.divergences import mixed_logits
from mmkd_plugin.outputs import score_rows

METHODS: dict[str, Any] = {
    'DIST': dict(type='DIST', temperature=2.0),
    'DKD': dict(type='DKD', beta=2.0),
    'NKD': dict(type='NKD'),
    'standardised': dict(type='SoftTarget', standardize=True),
    'RKD': dict(type='RKD'),
}
FUNCTIONS = {'DIST': losses.dist_loss, 'DKD': losses.dkd_loss, 'NKD': losses.nkd_loss}
DIVERGENCES = [dict(type='DIST', inter_weight=2.0), dict(type='DKD', beta=2.0), dict(type='NKD')]


def logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('ensemble', ['arithmetic', 'geometric'])
def test_method_is_the_function_of_the_mean_of_its_teachers(name: str, ensemble: str) -> None:
    labels = torch.arange(6) % 5
    student, one, other = logits(6, 5), logits(6, 5), logits(6, 5)
    method = dict(DIST=DIST, DKD=DKD, NKD=NKD)[name](2.0, loss_weight=0.5, ensemble=ensemble)
    if ensemble == 'arithmetic':
        target = 2 * ((one / 2).softmax(1) / 2 + (other / 2).softmax(1) / 2).log()
    else:
        target = (one + other) / 2
    others = () if name == 'DIST' else (labels,)
    expected = 0.5 * FUNCTIONS[name](student, target, *others, 2.0)
    [(key, found)] = method(output(student), [output(one), output(other)], labels).items()
    assert key == f'loss_{name.lower()}'
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_mixed_logits_have_the_probabilities_of_the_mixture(activation: str) -> None:
    from mmkd_plugin.outputs import ClassScores, NetworkOutput

    outputs = [NetworkOutput(ClassScores.of_images(logits(4, 5), activation)) for _ in range(4)]
    rows = score_rows(outputs[0], outputs[1:], lambda *_: torch.ones(4, 1))
    weights = logits(4, 3).softmax(dim=1)
    found = rows.probabilities(mixed_logits(rows, weights, 3.0) / 3.0)
    torch.testing.assert_close(found, rows.mixture(weights, 3.0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name', METHODS)
def test_method_trains_a_student_and_no_teacher(name: str, tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(m=METHODS[name]), task_weight=0.0).train()
    before = [tiny.weights_of(teacher.model) for teacher in model.teachers]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        total, _ = model.parse_losses(tiny.losses_of(model))
        total.backward()
        optimizer.step()
        values.append(total.item())
    assert values[-1] < values[0]
    for teacher, weights in zip(model.teachers, before, strict=True):
        assert not tiny.differing(weights, teacher.model.state_dict())


@pytest.mark.parametrize('objective', ['paper', 'label'])
@pytest.mark.parametrize('divergence', DIVERGENCES, ids=lambda one: one['type'])
def test_divergence_of_amtml_kd_reaches_the_student_and_the_weighting(
    divergence: dict[str, Any], objective: str, tmp_path: Path
) -> None:
    amtml = tiny.amtml(divergence=divergence, objective=objective, standardize=True)
    model = tiny.distiller(tmp_path, methods=dict(a=amtml)).train()
    found = tiny.losses_of(model)
    weighting = list(model.methods.a.mixture.weighting.parameters())
    student = list(model.student.parameters())
    loss = found['a.loss_kd']
    of_student = torch.autograd.grad(loss, student, retain_graph=True, allow_unused=True)
    assert any(one is not None and one.any() for one in of_student)
    of_weights = torch.autograd.grad(loss, weighting, retain_graph=True, allow_unused=True)
    reached = any(one is not None and one.any() for one in of_weights)
    assert reached == (objective == 'paper')


def test_amtml_kd_by_dist_is_the_loss_of_the_mixture() -> None:
    student, one, other = logits(6, 5), logits(6, 5), logits(6, 5)
    embedding = {'backbone[-1]': logits(6, 3)}
    method = AMTMLKD(
        temperature=2.0,
        hint_weight=0.0,
        angle_weight=0.0,
        weighting=dict(type='UniformTeacherWeighting'),
        embedding_tap='backbone[-1]',
        divergence=dict(type='DIST', intra_weight=0.5),
    )
    outputs = output(student, **embedding), [output(one), output(other)]
    built(method, *outputs)
    target = 2 * ((one / 2).softmax(1) / 2 + (other / 2).softmax(1) / 2).log()
    expected = losses.dist_loss(student, target, 2.0, intra_weight=0.5)
    torch.testing.assert_close(method(*outputs, None)['loss_kd'], expected)


def test_standardised_soft_targets_do_not_change_with_the_size_of_logits() -> None:
    student, teacher = logits(6, 5), logits(6, 5)
    method = SoftTarget(temperature=2.0, standardize=True)
    found = method(output(student), [output(teacher)], None)['loss_kd']
    scaled = method(output(4 * student - 1), [output(0.1 * teacher + 3)], None)['loss_kd']
    torch.testing.assert_close(found, scaled, rtol=1e-5, atol=1e-8)
    target = (losses.standardize_logits(teacher) / 2).softmax(1)
    expected = losses.soft_target_kl(losses.standardize_logits(student), target, 2.0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('name', ['DIST', 'DKD', 'NKD', 'standardised', 'RKD'])
def test_method_trains_peers(name: str) -> None:
    model = ROOT_MODELS.build(tiny.mutual_config(methods=dict(m=METHODS[name]))).train()
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=0.05)))(model)
    logged = model.train_step(tiny.batch_of(), wrappers)
    found = {key: value for key, value in logged.items() if '.m.loss' in key}
    assert len(found) == (4 if name == 'RKD' else 2)
    assert all(value.isfinite() and value > 0 for value in found.values())


@pytest.mark.parametrize('family', ['gfl', 'retinanet', 'faster_rcnn'])
def test_dist_trains_a_detector(family: str, tmp_path: Path) -> None:
    locations = dict(background=0.001)
    methods = dict(m=dict(type='DIST', locations=locations))
    model = small.distiller(tmp_path, small.detector(family), methods=methods).train()
    loss = small.losses_of(model, small.batch_for(family))['m.loss_dist']
    assert loss.isfinite() and loss > 0
    loss.backward()


# Refused


@pytest.mark.parametrize('name', ['DKD', 'NKD'])
def test_method_with_labels_is_refused_for_detectors(name: str, tmp_path: Path) -> None:
    with raises_config_error('methods.m.type', ANY, 'one label', fix='DIST'):
        small.distiller(tmp_path, small.detector('gfl'), methods=dict(m=METHODS[name]))


@pytest.mark.parametrize('name', ['DKD', 'NKD'])
def test_method_with_labels_is_refused_without_them(name: str, tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(m=METHODS[name]), task_weight=0.0).train()
    with raises_config_error('methods.m', ANY, 'needs labels'):
        tiny.losses_of(model, tiny.batch_of(labels=False))


@pytest.mark.parametrize('name', ['DKD', 'NKD'])
def test_mixed_labels_are_refused(name: str, tmp_path: Path) -> None:
    preprocessor = tiny.preprocessor()
    preprocessor['batch_augments'] = dict(augments=dict(type='mmpretrain.Mixup', alpha=0.8))
    model = tiny.distiller(
        tmp_path, methods=dict(m=METHODS[name]), data_preprocessor=preprocessor
    ).train()
    with raises_config_error('methods.m.type', (8, 4), 'one label an image', fix='Mixup'):
        tiny.losses_of(model)


def test_standardised_logits_are_refused_for_a_sigmoid(tmp_path: Path) -> None:
    methods = dict(m=dict(type='SoftTarget', standardize=True))
    with raises_config_error('methods.m.standardize', True, 'sigmoid'):
        small.distiller(tmp_path, small.detector('gfl'), methods=methods)


@pytest.mark.parametrize(
    ('key', 'change'),
    [
        ('divergence', dict(divergence=dict(type='CE'))),
        ('divergence.alpha', dict(divergence=dict(type='DKD', alpha=-1.0))),
        ('divergence.delta', dict(divergence=dict(type='DIST', delta=1.0))),
    ],
)
def test_wrong_divergence_is_refused(key: str, change: Any, tmp_path: Path) -> None:
    with raises_config_error(f'methods.a.{key}', ANY):
        tiny.distiller(tmp_path, methods=dict(a=tiny.amtml(**change)))


@pytest.mark.parametrize('name', METHODS)
def test_unknown_argument_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    methods = dict(m=dict(METHODS[name], tau=2.0))
    with raises_config_error('methods.m.tau', 2.0, fix='arguments are'):
        tiny.distiller(tmp_path, methods=methods)


# Small batches


@pytest.mark.parametrize(('name', 'count'), [('DIST', 1), ('RKD', 1), ('RKD', 2)])
def test_batch_without_relations_has_no_loss_and_is_logged_once(name: str, count: int) -> None:
    tap_checks._log_few_rows.cache_clear()
    outputs = [
        output(torch.randn(count, 5, requires_grad=True), neck=torch.randn(count, 3))
        for _ in range(2)
    ]
    method = dict(DIST=DIST, RKD=RKD)[name]()
    with mock.patch.object(tap_checks, 'print_log') as log:
        for _ in range(3):
            found = method(outputs[0], outputs[1:], None)
    assert log.call_count == 1
    values = [value.item() for value in found.values()]
    assert all(value == 0.0 for value in values if name == 'DIST' or count == 1)
    assert found.get('loss_angle', torch.zeros(())).item() == 0.0


def test_rkd_is_the_weighted_sum_of_both_relations() -> None:
    own, one, other = logits(6, 3), logits(6, 4), logits(6, 5)
    outputs = output(neck=own), [output(neck=one), output(neck=other)]
    method = RKD(distance_weight=2.0, angle_weight=3.0)
    method.build(Probe('student', outputs[0]), [Probe('teacher', one) for one in outputs[1]])
    found = method(*outputs, None)
    for name, weight in (('distance', 2.0), ('angle', 3.0)):
        function = getattr(losses, f'{name}_loss')
        expected = weight * (function(own, one) + function(own, other)) / 2
        torch.testing.assert_close(found[f'loss_{name}'], expected)
