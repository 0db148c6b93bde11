from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from helpers.forbid import forbid
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from mmkd_plugin.adapters import QueryDetectorAdapter, TappedModel, Teacher

FAMILIES = ('detr', 'deformable_detr', 'dino')
#: Families whose queries are learned embeddings, with the activation of their classes.
SHARED = dict(
    detr='softmax', conditional_detr='sigmoid', dab_detr='sigmoid', deformable_detr='sigmoid'
)
HINT = dict(type='Hint', pairs=[dict(student='neck[0]', teacher='neck[0]')])


def hint(tap: str) -> dict[str, Any]:
    return dict(hint=dict(type='Hint', pairs=[dict(student=tap, teacher=tap)]))


def without_dropout(model: Any) -> Any:
    for network in (model.student, *(teacher.model for teacher in model.teachers)):
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
            if isinstance(module, nn.BatchNorm2d):  # the student normalises as the teacher does
                module.momentum, module.track_running_stats = 0.0, True
                module.eval()
    return model


@pytest.mark.parametrize('family', FAMILIES)
def test_stock_detector_takes_a_step_as_student_and_as_teacher(family: str, tmp_path: Path) -> None:
    model = small.distiller(tmp_path, small.detector(family), methods=dict(hint=HINT))
    assert isinstance(model.tapped.adapter, QueryDetectorAdapter)
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


@pytest.mark.parametrize('family', ['detr', 'deformable_detr'])
def test_student_learns_the_teachers_scores_of_the_teachers_queries(
    family: str, tmp_path: Path
) -> None:
    """All parts of the student but its own queries receive gradients; the teacher stays."""
    kd = dict(type='SoftTarget', temperature=2.0)
    model = small.distiller(tmp_path, small.detector(family), methods=dict(kd=kd))
    teacher = model.teachers[0]
    shared = teacher.adapter.queries
    assert shared is model.tapped.adapter.queries and 'query_pos' in shared
    own = teacher.model.query_embedding.weight
    assert shared['query_pos'].shape == (1, len(own), min(own.shape[1], shared['query'].shape[2]))
    assert not any(value.requires_grad for value in shared.values())
    batch = small.batch_for(family)
    losses = small.losses_of(model, batch)
    assert losses['kd.loss_kd'] > 0
    losses['kd.loss_kd'].backward()
    reached = {n.split('.')[0] for n, p in model.student.named_parameters() if p.grad is not None}
    assert {'backbone', 'neck', 'encoder', 'decoder', 'bbox_head'} <= reached
    assert model.student.query_embedding.weight.grad is None
    assert not any(p.grad is not None for p in teacher.model.parameters())


@pytest.mark.parametrize('family', ['dab_detr', 'deformable_detr'])
def test_equal_networks_have_equal_scores_whatever_queries_the_student_learned(
    family: str, tmp_path: Path
) -> None:
    model = without_dropout(small.distiller(tmp_path, small.detector(family)))
    weights = model.teachers[0].model.state_dict()
    model.student.load_state_dict(weights)
    with torch.no_grad():
        model.student.query_embedding.weight.add_(1.0)  # queries of its own
    losses = small.losses_of(model, small.batch_for(family))
    assert losses['kd.loss_kd'].item() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        model.student.encoder.layers[0].ffn.layers[1].weight.mul_(1.5)
    assert small.losses_of(model, small.batch_for(family))['kd.loss_kd'] > 1e-6


@pytest.mark.parametrize(('family', 'activation'), SHARED.items())
def test_scores_of_own_queries_are_those_of_a_plain_forward(family: str, activation: str) -> None:
    """A network that decodes its own queries a second time finds what it predicts."""
    net = TappedModel(small.network(small.detector(family)).eval(), 'teacher')
    inputs = torch.randn(2, 3, 64, 64)
    net.adapter.queries = net.adapter.find_queries(net.model, inputs)
    net.request([], scores=True)
    with torch.no_grad():
        scores = net.observe(inputs).scores
        samples = net.adapter.blank_samples(inputs)
        plain = net.model(inputs, samples, mode='tensor')[0][-1]
    assert torch.allclose(scores.logits, plain, atol=1e-5)
    assert (scores.activation, scores.num_classes) == (activation, small.CLASSES)
    assert scores.queries == plain.shape[1] and not scores.per_image
    assert 'forward_decoder' not in vars(net.model)
    assert f'{scores.queries} shared queries' in str(scores)


def test_weights_of_0_leave_the_student_as_it_is(tmp_path: Path) -> None:
    """No pass is added: the draws of dropout are those of plain training."""
    kd = dict(type='SoftTarget', temperature=2.0, loss_weight=0.0)
    model = small.distiller(tmp_path, small.detector('detr'), methods=dict(kd=kd))
    plain = small.network(small.detector('detr'))
    plain.load_state_dict(model.student.state_dict())
    totals = []
    for network in (model, plain):
        network.train()
        torch.manual_seed(0)
        losses = small.losses_of(network, small.batch_for('detr'))
        totals.append(small.total(network, losses))
    assert torch.equal(*totals)


def test_queries_that_depend_on_the_image_are_refused(tmp_path: Path) -> None:
    reasons = 'class scores of DINO', 'reference_points', 'depend on the image'
    with raises_config_error('teachers[0] (t1)', ANY, *reasons, fix='Use methods on taps alone'):
        small.distiller(tmp_path, small.detector('dino'))


def test_queries_of_another_form_are_refused(tmp_path: Path) -> None:
    teachers = [small.teacher(tmp_path, small.detector('deformable_detr'))]
    problem = 'must decode the queries of the first teacher'
    with raises_config_error('student', ANY, problem, fix='the same family and width'):
        small.distiller(tmp_path, small.detector('detr'), teachers)


def test_a_dense_student_of_queries_is_refused(tmp_path: Path) -> None:
    teachers = [small.teacher(tmp_path, small.detector('deformable_detr'))]
    with raises_config_error('teachers[0] (t1)', ANY, 'shared queries', fix='taps alone'):
        small.distiller(tmp_path, small.detector('retinanet'), teachers)


def test_peers_have_no_fixed_queries() -> None:
    config = dict(
        type='mmkd_plugin.MutualDistiller',
        peers=[small.detector('detr')] * 2,
        methods=dict(dml=dict(type='SoftTarget')),
    )
    with raises_config_error('peers[0] (peer0)', 'DETR', 'a frozen teacher', fix='taps alone'):
        ROOT_MODELS.build(config)


@pytest.mark.parametrize(
    ('family', 'tap', 'beside'),
    [
        ('detr', 'encoder', False),
        ('detr', 'decoder', True),
        ('detr', 'bbox_head.fc_cls', False),
        ('deformable_detr', 'decoder[0]', True),
    ],
)
def test_transformer_and_head_are_tapped_with_and_without_scores(
    family: str, tap: str, beside: bool, tmp_path: Path
) -> None:
    methods = {**hint(tap), **(dict(kd=dict(type='SoftTarget')) if beside else {})}
    model = small.distiller(tmp_path, small.detector(family), methods=methods)
    losses = small.losses_of(model, small.batch_for(family))
    assert losses['hint.loss_hint'] > 0
    small.total(model, losses).backward()
    model = small.distiller(tmp_path, small.detector(family), methods=methods, task_weight=0)
    assert small.losses_of(model, small.batch_for(family))['hint.loss_hint'] > 0


def test_observe_runs_backbone_and_neck_alone(tmp_path: Path) -> None:
    config = small.detector('deformable_detr')
    teacher = Teacher(config, small.checkpoint(tmp_path, config))
    teacher.request(['backbone[0]', 'neck[3]'])
    with ExitStack() as stack:
        work = ('forward', 'forward_transformer', 'pre_transformer', 'loss', 'predict')
        forbid(stack, teacher.model, *work)
        for part in ('encoder', 'decoder', 'bbox_head'):
            forbid(stack, teacher.model.get_submodule(part), 'forward')
        output = teacher.observe(torch.randn(1, 3, 96, 96))
    assert output.feature('neck[3]').shape == (1, 32, 2, 2)


def test_teacher_decodes_once(tmp_path: Path) -> None:
    """Its own queries are not decoded beside the shared ones."""
    config = small.detector('detr')
    teacher = Teacher(config, small.checkpoint(tmp_path, config))
    inputs = torch.randn(1, 3, 96, 96)
    teacher.adapter.queries = teacher.adapter.find_queries(teacher.model, inputs)
    teacher.request(['neck'], scores=True)
    calls: list[int] = []
    teacher.model.decoder.register_forward_hook(lambda *_: calls.append(1))
    assert teacher.observe(inputs).scores is not None and len(calls) == 1


def test_detector_of_another_kind_is_a_teacher_by_its_maps(tmp_path: Path) -> None:
    """DETR's neck has one map of stride 32, RetinaNet's third one too."""
    pairs = dict(type='Hint', pairs=[dict(student='neck[2]', teacher='neck')])
    teachers = [small.teacher(tmp_path, small.detector('detr'))]
    student = small.detector('retinanet')
    model = small.distiller(tmp_path, student, teachers, methods=dict(hint=pairs))
    assert small.losses_of(model, small.batch_for('retinanet'))['hint.loss_hint'] > 0
