"""Hooks and constructors see a distiller as the student inside it."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.model import BaseModel, convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

HINT = dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer2')])


def distiller(folder: Path, **changes: Any) -> Any:
    return tiny.distiller(folder, **{'methods': dict(hint=HINT), **changes})


def test_attributes_that_the_distiller_has_not_are_the_students(tmp_path: Path) -> None:
    model = distiller(tmp_path)
    assert model.backbone is model.student.backbone and model.head is model.student.head
    assert model.with_neck
    assert model.extract_feat.__self__ is model.student
    assert not hasattr(model, 'roi_head') and not hasattr(model, 'module')
    with pytest.raises(AttributeError, match='neither Distiller nor its student ImageClassifier'):
        _ = model.roi_head


def test_parameters_and_modules_have_the_names_of_a_plain_model(tmp_path: Path) -> None:
    model = distiller(tmp_path)
    plain = tiny.network(tiny.classifier())
    names = [name for name, _ in model.named_parameters()]
    own = [name for name, _ in plain.named_parameters()]
    assert names[: len(own)] == own
    assert all(name.startswith('methods.') for name in names[len(own) :]) and len(names) > len(own)
    assert set(dict(plain.named_modules())) <= set(dict(model.named_modules()))
    assert [name for name, _ in plain.named_buffers()] == [
        name
        for name, _ in model.named_buffers()
        if not name.startswith(('methods', 'record', 'teacher_scores'))
    ]
    for name, parameter in model.student.named_parameters():
        assert model.get_parameter(name) is parameter


def test_all_modules_are_walked_once(tmp_path: Path) -> None:
    model = distiller(tmp_path)
    modules = list(model.modules())
    assert len(set(modules)) == len(modules) and model.student in modules
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for part in (model.student, model.methods) for p in part.parameters()
    )
    model.eval()
    assert not any(module.training for module in modules)
    model.train()
    assert all(module.training for module in modules)


def test_checkpoints_keep_the_prefix(tmp_path: Path) -> None:
    keys = distiller(tmp_path).state_dict()
    assert 'student.head.fc.weight' in keys and 'head.fc.weight' not in keys


@pytest.mark.parametrize(
    'custom_keys',
    [
        {'.head': dict(lr_mult=0.0)},  # the plain name has no dot before it
        {'head': dict(lr_mult=0.1), 'backbone.layer1': dict(decay_mult=0.0)},
        {'student': dict(lr_mult=7.0)},
    ],
)
def test_rates_of_the_student_are_those_of_a_plain_run(
    tmp_path: Path, custom_keys: dict[str, Any]
) -> None:
    config = dict(
        optimizer=dict(type='SGD', lr=0.1, weight_decay=0.01),
        paramwise_cfg=dict(custom_keys=custom_keys, norm_decay_mult=0.0, bias_lr_mult=2.0),
    )
    found = {}
    for model in (distiller(tmp_path), tiny.network(tiny.classifier())):
        wrapper = build_optim_wrapper(model, config)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        rates = {
            names[id(parameter)]: (group['lr'], group['weight_decay'])
            for group in wrapper.optimizer.param_groups
            for parameter in group['params']
        }
        found[type(model).__name__] = rates
    plain = found['ImageClassifier']
    assert {name: found['Distiller'][name] for name in plain} == plain


def test_sync_batchnorm_is_put_into_the_student(tmp_path: Path) -> None:
    model = distiller(tmp_path)
    keys = list(model.state_dict())
    converted = convert_sync_batchnorm(model, 'torch')
    assert converted is model and list(model.state_dict()) == keys
    kinds = {type(module) for module in model.student.modules()}
    assert nn.SyncBatchNorm in kinds and nn.BatchNorm2d not in kinds
    revert_sync_batchnorm(model)
    assert nn.SyncBatchNorm not in {type(module) for module in model.student.modules()}
    assert list(model.state_dict()) == keys


@ROOT_MODELS.register_module(force=True)
class OwnSteps(BaseModel):
    """A model with a validation step of its own."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(parts.pop('data_preprocessor', None))
        self.conv = nn.Conv2d(3, 4, 1)
        for name in parts:
            setattr(self, name, nn.Identity())

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        found = self.conv(inputs)
        return dict(loss=found.mean()) if mode == 'loss' else found

    def val_step(self, data: Any) -> str:
        return 'own'


@ROOT_MODELS.register_module(force=True)
class OwnTraining(OwnSteps):
    """A model with a training step of its own."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        return {}


def test_validation_is_the_students_own(tmp_path: Path) -> None:
    pairs = [dict(student='conv', teacher='backbone.layer2')]
    model = distiller(
        tmp_path, student=dict(type='OwnSteps'), methods=dict(hint=dict(type='Hint', pairs=pairs))
    )
    assert model.val_step({}) == 'own'


@pytest.mark.parametrize('name', ['student', 'methods', 'teachers', 'record'])
def test_student_with_a_name_of_the_distiller_is_refused(tmp_path: Path, name: str) -> None:
    with raises_config_error('student', 'OwnSteps', repr(name), fix=''):
        distiller(tmp_path, student={'type': 'OwnSteps', name: 1}, methods=dict(hint=PAIR))


PAIR = dict(type='Hint', pairs=[dict(student='conv', teacher='backbone.layer2')])


def test_student_with_its_own_training_step_is_refused(tmp_path: Path) -> None:
    with raises_config_error('student', 'OwnTraining', 'train_step', fix='BaseModel'):
        distiller(tmp_path, student=dict(type='OwnTraining'), methods=dict(hint=PAIR))


def test_copy_of_a_distiller_reads_its_own_student(tmp_path: Path) -> None:
    model = distiller(tmp_path)
    copied = copy.deepcopy(model)
    assert copied.backbone is copied.student.backbone is not model.backbone
    assert torch.equal(copied.backbone.conv1.weight, model.backbone.conv1.weight)


def test_distiller_can_be_pickled(tmp_path: Path) -> None:
    model = distiller(tmp_path)
    model.teachers = []  # a teacher is loaded from its file
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model) and again.backbone is again.student.backbone
    assert tiny.differing(tiny.weights_of(model), again.state_dict()) == []
