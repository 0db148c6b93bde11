"""The distiller: its losses, gradients, state and random numbers, one call at a time."""

import copy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

TWO = dict(
    amtml=tiny.amtml(temperature=3.0), kd=dict(type='SoftTarget', temperature=2.0, loss_weight=0.5)
)
PARTS = ('weight', 'bias')
FROZEN = ('', '_factors', '_direction')


def test_losses_of_two_methods_and_the_task_are_in_one_dict(tmp_path: Path) -> None:
    model = tiny.distiller(
        tmp_path, methods=TWO, task_weight=0.3
    ).eval()  # eval: the second forward repeats the first
    batch = model.data_preprocessor(tiny.batch_of(), True)
    losses = model(**batch, mode='loss')
    assert losses.keys() == {
        'task.loss',
        'amtml.loss_kd',
        'amtml.loss_weighting',
        'amtml.loss_angle',
        'amtml.loss_hint',
        'amtml.weight_entropy',
        'kd.loss_kd',
    }
    logits = model(batch['inputs'], mode='tensor')
    torch.testing.assert_close(
        losses['task.loss'], 0.3 * F.cross_entropy(logits, torch.arange(8) % 4)
    )
    teacher_logits = [
        tiny.network(tiny.classifier(base_channels=6), seed).eval()(batch['inputs'])
        for seed in (1, 2)
    ]
    target = sum((scores / 2).softmax(1) for scores in teacher_logits) / 2
    expected = 0.5 * 4 * F.kl_div((logits / 2).log_softmax(1), target, reduction='batchmean')
    torch.testing.assert_close(losses['kd.loss_kd'], expected)


def test_losses_without_loss_in_their_name_are_only_logged(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=TWO)
    losses = tiny.losses_of(model)
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(
        total, sum(value for name, value in losses.items() if 'loss' in name)
    )
    assert logged.keys() == {*losses, 'loss'}


def test_task_metrics_with_a_task_weight_are_not_weighted(tmp_path: Path) -> None:
    student = tiny.classifier()
    student['head']['cal_acc'] = True
    losses = tiny.losses_of(tiny.distiller(tmp_path, student=student, task_weight=0.0001))
    (accuracy,) = losses['task.accuracy_top-1']  # a list, one entry per threshold
    assert accuracy.item() in [100 * right / 8 for right in range(9)], 'a metric is not weighted'
    assert losses['task.loss'].item() < 0.01


def test_state_dict_of_a_distiller_holds_student_methods_and_record(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=TWO)
    alone = tiny.network(tiny.classifier()).state_dict()
    keys = set(model.state_dict())
    assert {f'student.{name}' for name in alone} < keys
    assert keys - {f'student.{name}' for name in alone} == {
        'teacher_scores',
        'record.began',
        *(f'methods.amtml.hints.regressors.{i}.{part}' for i in (0, 1) for part in PARTS),
        *(f'methods.amtml.mixture.weighting.{name}' for name in ('factors', 'direction')),
        *(f'methods.amtml.mixture.weighting.frozen{name}' for name in FROZEN),
        'methods.amtml.hints.group_mapping.order',
    }


def test_predict_and_tensor_of_a_distiller_equal_the_students(tmp_path: Path) -> None:
    model, alone = tiny.distiller(tmp_path).eval(), tiny.network(tiny.classifier()).eval()
    alone.load_state_dict(
        {
            k.removeprefix('student.'): v
            for k, v in model.state_dict().items()
            if k.startswith('student.')
        }
    )
    for one, other in zip(
        model.test_step(tiny.batch_of()), alone.test_step(tiny.batch_of()), strict=True
    ):
        assert torch.equal(one.pred_score, other.pred_score)
        assert one.pred_label == other.pred_label
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(images), alone(images))


def test_gradients_of_the_total_reach_every_parameter(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods={**TWO, 'label': tiny.amtml(objective='label')})
    model.parse_losses(tiny.losses_of(model))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_distiller_with_all_weights_zero_builds_no_teacher(tmp_path: Path) -> None:
    absent = [dict(name='t', model='nowhere.py', checkpoint='nowhere.pth')]
    methods = dict(
        kd=dict(type='SoftTarget', loss_weight=0),
        hint=dict(type='Hint', pairs=[dict(student='a', teacher='b')], loss_weight=0.0),
    )
    model = tiny.distiller(tmp_path, teachers=absent, methods=methods)
    assert (model.teachers, len(model.methods)) == ([], 0)
    assert tiny.losses_of(model).keys() == {'task.loss'}


def test_method_with_weight_zero_is_left_out(tmp_path: Path) -> None:
    model = tiny.distiller(
        tmp_path,
        methods=dict(kd=dict(type='SoftTarget'), off=dict(type='LogitMimic', loss_weight=0)),
    )
    assert list(model.methods) == ['kd']


def test_student_with_teachers_draws_the_random_numbers_of_a_plain_build(tmp_path: Path) -> None:
    teachers = tiny.teachers(tmp_path)
    torch.manual_seed(9)
    alone = ROOT_MODELS.build(dict(tiny.classifier(), _scope_='mmpretrain'))
    after = torch.rand(1)
    torch.manual_seed(9)
    model = tiny.distiller(tmp_path, teachers=teachers, methods=TWO)
    assert torch.equal(after, torch.rand(1))
    assert all(
        torch.equal(a, b)
        for a, b in zip(alone.parameters(), model.student.parameters(), strict=True)
    )


def test_losses_under_autocast_are_float32_and_close(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=TWO)
    for teacher in model.teachers:
        teacher.model.head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    model.student.head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    seen: list[torch.dtype] = []
    with torch.autocast('cpu', torch.bfloat16):
        losses = tiny.losses_of(model)
    assert seen == [torch.bfloat16] * 3, 'student and teachers ran in half precision'
    assert {name: value.dtype for name, value in losses.items()} == dict.fromkeys(
        losses, torch.float32
    )
    exact = tiny.losses_of(model)
    for name, value in losses.items():
        torch.testing.assert_close(value, exact[name], rtol=0.1, atol=0.05)
    model.parse_losses(losses)[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('count', [1, 2])
@pytest.mark.parametrize('objective', ['paper', 'label'])
def test_losses_of_one_or_two_images_are_finite(tmp_path: Path, count: int, objective: str) -> None:
    model = tiny.distiller(tmp_path, methods={**TWO, 'amtml': tiny.amtml(objective=objective)})
    total = model.parse_losses(tiny.losses_of(model, tiny.batch_of(count)))[0]
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_losses_with_mixed_labels_are_finite_and_counted_by_share(tmp_path: Path) -> None:
    student = tiny.classifier(train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)]))
    student['head']['loss']['use_soft'] = True
    methods = dict(
        label=tiny.amtml(objective='label'),
        confidence=tiny.amtml(weighting=dict(type='ConfidenceTeacherWeighting')),
    )
    model = tiny.distiller(tmp_path, student=student, methods=methods)
    losses = tiny.losses_of(model)
    assert all(value.isfinite() for value in losses.values())
    record = model.methods.label.mixture.weight_record
    assert record.class_counts.tolist() == pytest.approx([2.0] * 4), (
        'mixing keeps each class at its share of the batch'
    )


def test_losses_without_labels_at_task_weight_zero_are_those_of_the_methods(tmp_path: Path) -> None:
    model = tiny.distiller(
        tmp_path,
        methods=dict(mimic=dict(type='LogitMimic'), amtml=tiny.amtml(objective='paper')),
        task_weight=0,
    )
    losses = tiny.losses_of(model, tiny.batch_of(labels=False))
    assert losses.keys() == {
        'mimic.loss_mimic',
        *(f'amtml.{p}' for p in ('loss_kd', 'loss_angle', 'loss_hint', 'weight_entropy')),
    }
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.parameters()), 'or DDP would wait for it'


def test_labels_without_a_request_are_not_read(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path)
    tiny.losses_of(model)
    with patch.object(model.tapped.adapter, 'labels', side_effect=AssertionError('read')):
        tiny.losses_of(model)


def test_checks_of_the_first_batch_run_once(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path)
    adapter = model.tapped.adapter
    with patch.object(adapter, 'missing_labels', wraps=adapter.missing_labels) as check:
        tiny.losses_of(model)
        tiny.losses_of(model)
    assert check.call_count == 1


def test_set_teacher_scores_with_measured_scores_orders_the_teachers(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(amtml=tiny.amtml(mapping='best_high')))
    with raises_config_error('methods.amtml.mapping', 'best_high', fix='EvaluateTeachers'):
        tiny.losses_of(model)
    model.set_teacher_scores([40.0, 70.0])
    assert model.methods.amtml.hints.group_mapping.groups() == (1, 2)
    assert model.teacher_scores.tolist() == [40.0, 70.0]
    tiny.losses_of(model)
    model.set_teacher_scores([40.0, 70.0], greater_is_better=False)
    assert model.methods.amtml.hints.group_mapping.groups() == (2, 1)


def test_average_of_a_distiller_keeps_scores_record_and_order(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(amtml=tiny.amtml(mapping='best_high')))
    average = ExponentialMovingAverage(
        model, momentum=0.5, update_buffers=True
    )  # copied before the teachers are measured
    model.set_teacher_scores([40.0, 70.0])
    for _ in range(3):
        average.update_parameters(model)
    assert average.module.teacher_scores.tolist() == [40.0, 70.0]
    assert torch.equal(average.module.record.began, model.record.began)
    assert average.module.methods.amtml.hints.group_mapping.order.tolist() == [1, 0]


@ROOT_MODELS.register_module(force=True)
class UnknownNet(BaseModel):
    """A model as in MMEngine's tutorial: no adapter knows it, and its labels are a tensor."""

    def __init__(self, width: int = 4, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.net = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3))
        self.fc = nn.Linear(width, 4)

    def forward(self, images: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        scores = self.fc(self.net(images).mean(dim=(2, 3)))
        return {'loss': F.cross_entropy(scores, labels)} if mode == 'loss' else scores


def unknown(folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / 'unknown.pth'
    torch.save(UnknownNet(6).state_dict(), path)
    config = dict(
        type='mmkd_plugin.Distiller',
        student=dict(type='UnknownNet'),
        teachers=[dict(model=dict(type='UnknownNet', width=6), checkpoint=str(path))],
        methods=dict(hint=dict(type='Hint', pairs=[dict(student='net', teacher='net')])),
    )
    return {**config, **changes}


def test_unknown_model_with_taps_is_distilled(tmp_path: Path) -> None:
    model = ROOT_MODELS.build(unknown(tmp_path))
    losses = model(torch.randn(4, 3, 8, 8), torch.arange(4), mode='loss')
    assert losses.keys() == {'task.loss', 'hint.loss_hint'}
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_unknown_model_with_class_scores_is_refused(tmp_path: Path) -> None:
    with raises_config_error('student', ANY, 'UnknownNet', 'no adapter knows', fix='taps'):
        ROOT_MODELS.build(unknown(tmp_path, methods=dict(kd=dict(type='SoftTarget'))))


def test_copy_of_a_distiller_in_training_leaves_the_original_unchanged(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=TWO)
    other = copy.deepcopy(model)
    before = tiny.weights_of(model)
    torch.optim.SGD(other.parameters(), lr=0.1).zero_grad()
    other.parse_losses(tiny.losses_of(other))[0].backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert all(p.grad is None for p in model.parameters())
    assert all(
        torch.equal(before[name].nan_to_num(), v.nan_to_num())
        for name, v in model.state_dict().items()
    )
