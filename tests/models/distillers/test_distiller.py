"""The model that the Runner receives, one call at a time."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.loading.run_record import read_record

TWO = dict(
    amtml=tiny.amtml(temperature=3.0), kd=dict(type='SoftTarget', temperature=2.0, loss_weight=0.5)
)


def test_losses_of_two_methods_and_the_task_are_those_by_hand(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=TWO, task_weight=0.3)
    model.eval()  # the second forward repeats the first
    batch = model.data_preprocessor(tiny.batch_of(), True)
    losses = model(**batch, mode='loss')
    assert losses.keys() == {
        'task.loss',
        'amtml.loss_kd',
        'amtml.loss_angle',
        'amtml.loss_hint',
        'amtml.weight_entropy',
        'kd.loss_kd',
    }
    logits = model(batch['inputs'], mode='tensor')
    torch.testing.assert_close(
        losses['task.loss'], 0.3 * F.cross_entropy(logits, torch.arange(8) % 4)
    )
    teachers = [tiny.network(tiny.classifier(base_channels=6), seed).eval() for seed in (1, 2)]
    outputs = [teacher(batch['inputs']) for teacher in teachers]
    target = sum((scores / 2).softmax(1) for scores in outputs) / 2
    expected = 0.5 * 4 * F.kl_div((logits / 2).log_softmax(1), target, reduction='batchmean')
    torch.testing.assert_close(losses['kd.loss_kd'], expected)


def test_parse_losses_adds_losses_and_logs_metrics(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=TWO)
    losses = tiny.losses_of(model)
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(
        total, sum(value for name, value in losses.items() if 'loss' in name)
    )
    assert logged.keys() == {*losses, 'loss'}


def test_task_weight_leaves_metrics_as_they_are(tmp_path: Path) -> None:
    student = tiny.classifier()
    student['head']['cal_acc'] = True
    losses = tiny.losses_of(tiny.distiller(tmp_path, student=student, task_weight=0.0001))
    (accuracy,) = losses['task.accuracy_top-1']  # a list, one entry a threshold
    assert accuracy.item() in [100 * right / 8 for right in range(9)]
    assert losses['task.loss'].item() < 0.01


def test_state_dict_has_student_methods_record_and_scores(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=TWO)
    alone = tiny.network(tiny.classifier()).state_dict()
    state = model.state_dict()
    hints, weighting = 'methods.amtml.hints', 'methods.amtml.mixture.weighting'
    assert set(state) == {
        *(f'student.{name}' for name in alone),
        'teacher_scores',
        'record.began',
        *(f'{hints}.regressors.{i}.{name}' for i in (0, 1) for name in ('weight', 'bias')),
        f'{hints}.group_mapping.order',
        *(f'{weighting}.{name}' for name in ('factors', 'direction')),
        *(f'{weighting}.frozen{name}' for name in ('', '_factors', '_direction')),
    }
    assert read_record(state) == {
        'teachers': [dict(name=one.name, sha256=one.sha256) for one in model.teachers]
    }


def test_predict_and_tensor_modes_return_the_students_outputs(tmp_path: Path) -> None:
    model, alone = tiny.distiller(tmp_path).eval(), tiny.network(tiny.classifier()).eval()
    alone.load_state_dict(model.student.state_dict())
    for one, other in zip(
        model.test_step(tiny.batch_of()), alone.test_step(tiny.batch_of()), strict=True
    ):
        assert torch.equal(one.pred_score, other.pred_score)
        assert one.pred_label == other.pred_label
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(images), alone(images))


def test_gradients_reach_every_parameter_of_student_and_methods(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods={**TWO, 'label': tiny.amtml(objective='label')})
    model.parse_losses(tiny.losses_of(model))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for teacher in model.teachers:
        assert all(parameter.grad is None for parameter in teacher.model.parameters())


def test_teachers_without_a_weighted_method_are_not_built(tmp_path: Path) -> None:
    absent = [dict(name='t', model='nowhere.py', checkpoint='nowhere.pth')]
    methods = dict(
        kd=dict(type='SoftTarget', loss_weight=0),
        hint=dict(type='Hint', pairs=[dict(student='a', teacher='b')], loss_weight=0.0),
    )
    model = tiny.distiller(tmp_path, teachers=absent, methods=methods)
    assert (model.teachers, len(model.methods)) == ([], 0)
    assert tiny.losses_of(model).keys() == {'task.loss'}


def test_a_method_of_weight_zero_among_others_is_left_out(tmp_path: Path) -> None:
    methods = dict(kd=dict(type='SoftTarget'), off=dict(type='LogitMimic', loss_weight=0))
    assert list(tiny.distiller(tmp_path, methods=methods).methods) == ['kd']


def test_building_draws_the_random_numbers_of_a_plain_student(tmp_path: Path) -> None:
    teachers = tiny.teachers(tmp_path)
    torch.manual_seed(9)
    alone = ROOT_MODELS.build(dict(tiny.classifier(), _scope_='mmpretrain'))
    after = torch.rand(1)
    torch.manual_seed(9)
    model = tiny.distiller(tmp_path, teachers=teachers, methods=TWO)
    assert torch.equal(after, torch.rand(1))
    assert not tiny.differing(alone.state_dict(), model.student.state_dict())


def test_autocast_runs_networks_in_bfloat16_and_losses_in_float32(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=TWO)
    dtypes: list[torch.dtype] = []
    for network in (model.student, *(teacher.model for teacher in model.teachers)):
        network.head.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        losses = tiny.losses_of(model)
    assert dtypes == [torch.bfloat16] * 3
    assert {value.dtype for value in losses.values()} == {torch.float32}
    exact = tiny.losses_of(model)
    for name, value in losses.items():
        torch.testing.assert_close(value, exact[name], rtol=0.1, atol=0.05)
    model.parse_losses(losses)[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('count', [1, 2])
@pytest.mark.parametrize('objective', ['paper', 'label'])
def test_gradients_of_one_or_two_images_are_finite(
    tmp_path: Path, count: int, objective: str
) -> None:
    model = tiny.distiller(tmp_path, methods={**TWO, 'amtml': tiny.amtml(objective=objective)})
    total = model.parse_losses(tiny.losses_of(model, tiny.batch_of(count)))[0]
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_mixed_labels_keep_each_class_at_its_share_of_the_batch(tmp_path: Path) -> None:
    student = tiny.classifier(train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)]))
    student['head']['loss']['use_soft'] = True
    methods = dict(
        label=tiny.amtml(objective='label'),
        confidence=tiny.amtml(weighting=dict(type='ConfidenceTeacherWeighting')),
    )
    model = tiny.distiller(tmp_path, student=student, methods=methods)
    losses = tiny.losses_of(model)
    assert all(value.isfinite() for value in losses.values())
    assert model.methods.label.mixture.weight_record.class_counts.tolist() == pytest.approx(
        [2.0] * 4
    )


def test_task_weight_zero_trains_without_labels(tmp_path: Path) -> None:
    model = tiny.distiller(
        tmp_path, methods=dict(mimic=dict(type='LogitMimic'), amtml=tiny.amtml()), task_weight=0
    )
    losses = tiny.losses_of(model, tiny.batch_of(labels=False))
    assert losses.keys() == {
        'mimic.loss_mimic',
        *(f'amtml.{p}' for p in ('loss_kd', 'loss_angle', 'loss_hint', 'weight_entropy')),
    }
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.parameters()), 'or DDP would wait for it'


class CountedLabels:
    """Counts how often labels of a batch are made, for one adapter."""

    def __init__(self, adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        make = adapter.labels

        def counted(data_samples: Any) -> Any:
            self.calls += 1
            return make(data_samples)

        monkeypatch.setattr(adapter, 'labels', counted)


@pytest.mark.parametrize(
    ('methods', 'calls'),
    [
        (dict(kd=dict(type='SoftTarget')), 0),
        (dict(kd=dict(type='SoftTarget'), amtml=tiny.amtml(objective='label')), 1),
        (dict(a=tiny.amtml(objective='label'), b=tiny.amtml(objective='label')), 1),
    ],
    ids=['not requested', 'requested once', 'requested twice'],
)
def test_labels_are_made_once_and_only_where_a_method_requests_them(
    tmp_path: Path, methods: dict[str, Any], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.distiller(tmp_path, methods=methods)
    counted = CountedLabels(model.tapped.adapter, monkeypatch)
    tiny.losses_of(model)
    assert counted.calls == calls


def test_checks_of_a_batch_run_on_the_first_batch_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.distiller(tmp_path)
    calls: list[Any] = []
    check = model.tapped.adapter.missing_labels
    monkeypatch.setattr(
        model.tapped.adapter, 'missing_labels', lambda samples: calls.append(1) or check(samples)
    )
    for _ in range(3):
        tiny.losses_of(model)
    assert len(calls) == 1


def test_a_failed_check_of_the_first_batch_is_repeated_on_the_next(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path)
    for _ in range(2):
        with raises_config_error('task_weight', 1.0, fix='task_weight=0'):
            tiny.losses_of(model, tiny.batch_of(labels=False))
    tiny.losses_of(model)


def test_a_later_batch_without_labels_that_a_method_needs_raises(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, task_weight=0, methods=dict(a=tiny.amtml(objective='label')))
    tiny.losses_of(model)
    with raises_config_error('methods.a'):
        tiny.losses_of(model, tiny.batch_of(labels=False))


def test_set_teacher_scores_orders_the_groups(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(amtml=tiny.amtml(mapping='best_high')))
    with raises_config_error('methods.amtml.mapping', 'best_high', fix='EvaluateTeachers'):
        tiny.losses_of(model)
    model.set_teacher_scores([40.0, 70.0])
    assert model.methods.amtml.hints.group_mapping.groups() == (1, 2)
    assert model.teacher_scores.tolist() == [40.0, 70.0]
    tiny.losses_of(model)
    model.set_teacher_scores([40.0, 70.0], greater_is_better=False)
    assert model.methods.amtml.hints.group_mapping.groups() == (2, 1)


def test_an_ema_copy_keeps_record_scores_and_order(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(amtml=tiny.amtml(mapping='best_high')))
    average = ExponentialMovingAverage(model, momentum=0.5, update_buffers=True)
    model.set_teacher_scores([40.0, 70.0])  # after the copy
    for _ in range(3):
        average.update_parameters(model)
    assert average.module.teacher_scores.tolist() == [40.0, 70.0]
    assert torch.equal(average.module.record.began, model.record.began)
    assert average.module.methods.amtml.hints.group_mapping.order.tolist() == [1, 0]


def test_a_deep_copy_trains_without_the_original(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=TWO)
    other = copy.deepcopy(model)
    before = tiny.weights_of(model)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other.parse_losses(tiny.losses_of(other))[0].backward()
    optimizer.step()
    assert all(p.grad is None for p in model.parameters())
    assert not tiny.differing(before, model.state_dict())
    assert tiny.differing(before, other.state_dict())
    assert other.tapped.model is other.student, 'its taps record its own student'


@ROOT_MODELS.register_module(force=True)
class OwnNet(BaseModel):
    """A model as in MMEngine's tutorial: no adapter is made for it, and labels are a tensor."""

    def __init__(self, width: int = 4, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.net = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3))
        self.fc = nn.Linear(width, 4)

    def forward(self, images: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        scores = self.fc(self.net(images).mean(dim=(2, 3)))
        return {'loss': F.cross_entropy(scores, labels)} if mode == 'loss' else scores


def own(folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / 'own.pth'
    torch.save(OwnNet(6).state_dict(), path)
    config = dict(
        type='mmkd_plugin.Distiller',
        student=dict(type='OwnNet'),
        teachers=[dict(model=dict(type='OwnNet', width=6), checkpoint=str(path))],
        methods=dict(hint=dict(type='Hint', pairs=[dict(student='net', teacher='net')])),
    )
    return {**config, **changes}


def test_a_model_of_no_framework_learns_by_its_taps(tmp_path: Path) -> None:
    model = ROOT_MODELS.build(own(tmp_path))
    losses = model(torch.randn(4, 3, 8, 8), torch.arange(4), mode='loss')
    assert losses.keys() == {'task.loss', 'hint.loss_hint'}
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_class_scores_of_a_model_of_no_framework_raise(tmp_path: Path) -> None:
    with raises_config_error('student', fix='methods on taps'):
        ROOT_MODELS.build(own(tmp_path, methods=dict(kd=dict(type='SoftTarget'))))
