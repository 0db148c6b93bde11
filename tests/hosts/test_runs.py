"""Ways of running a model that MMEngine offers, on a distiller as on a plain model."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import hosts
from helpers.errors import raises_config_error
from mmengine.analysis import get_model_complexity_info
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from mmkd_plugin.models.distillers import Distiller


def test_attribute_that_a_hook_writes_lands_on_the_student(tmp_path: Path) -> None:
    model = hosts.build('weight 1', hosts.eventful(), tmp_path)
    model.loss_lambda = 0.25  # known to the student
    model.phase = 'late'  # new
    model.extra = nn.Linear(2, 2)
    assert model.student.loss_lambda == 0.25 and model.student.phase == model.phase == 'late'
    assert 'student.extra.weight' in model.state_dict()
    model.task_weight = 0.5  # the distiller's own
    assert not hasattr(model.student, 'task_weight') and model.task_weight == 0.5
    copied = copy.deepcopy(model)
    copied.loss_lambda = 1.0
    assert model.student.loss_lambda == 0.25 and copied.student.loss_lambda == 1.0


def test_distiller_is_an_instance_of_the_classes_of_its_student(tmp_path: Path) -> None:
    one = hosts.build('weight 1', hosts.eventful(), tmp_path)
    other = hosts.build('weight 0', tiny.classifier(), tmp_path)
    assert isinstance(one, hosts.Eventful) and isinstance(one, hosts.ImageClassifier)
    assert isinstance(other, hosts.ImageClassifier) and not isinstance(other, hosts.Eventful)
    assert isinstance(one, Distiller) and not isinstance(one, BaseTTAModel)
    assert type(one).__name__ == 'Distiller'


def test_part_of_the_student_itself_follows_modes_and_types(tmp_path: Path) -> None:
    model = hosts.build('weight 1', hosts.eventful(), tmp_path)
    assert 'scale' in dict(model.named_parameters(recurse=False))
    model.eval().double()
    assert not model.student.training and model.student.scale.dtype == torch.float64


def test_weights_of_a_plain_run_load_under_their_names(tmp_path: Path) -> None:
    plain = hosts.build('plain', hosts.eventful(), tmp_path, seed=5)
    model = hosts.build('weight 1', hosts.eventful(), tmp_path)
    found = model.load_state_dict(plain.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert all(name.startswith(('methods', 'record', 'teacher')) for name in found.missing_keys)
    assert not tiny.differing(plain.state_dict(), model.student.state_dict())


def test_operations_that_are_counted_are_those_of_the_student(tmp_path: Path) -> None:
    found = [
        get_model_complexity_info(hosts.build(way, hosts.eventful(), tmp_path), (3, 8, 8))['flops']
        for way in hosts.WAYS
    ]
    assert found[0] == found[1] == found[2] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:The .grad attribute')  # torch reads it itself
def test_compiled_training_equals_eager_training(tmp_path: Path) -> None:
    states = []
    for name, settings in (('eager', False), ('compiled', dict(backend='eager'))):
        model = hosts.build('weight 1', tiny.classifier(), tmp_path)
        run = tiny.runner(model, tmp_path / name, cfg=dict(compile=settings))
        run.train()
        states.append(tiny.weights_of(run.model))
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize('kind', ['ExponentialMovingAverage', 'StochasticWeightAverage'])
def test_averages_of_weights_are_those_of_a_plain_run(tmp_path: Path, kind: str) -> None:
    means = []
    for way in hosts.WAYS[:2]:
        hook = dict(type='EMAHook', ema_type=kind, update_buffers=True)
        model = hosts.build(way, hosts.eventful(), tmp_path)
        run = tiny.runner(model, tmp_path / way, iters=3, custom_hooks=[hook])
        run.train()
        averaged = next(one for one in run.hooks if hasattr(one, 'ema_model')).ema_model.module
        means.append(hosts.student_of(averaged).state_dict())
    assert not tiny.differing(*means)


def test_model_for_several_branches_of_a_batch_is_refused(tmp_path: Path) -> None:
    config: dict[str, Any] = dict(type='TwoNetworks')
    with raises_config_error('student', 'TwoNetworks', "'student'", fix=''):
        ROOT_MODELS.build(
            dict(
                type='mmkd_plugin.Distiller',
                student=config,
                teachers=tiny.teachers(tmp_path, 1),
                methods=dict(kd=dict(type='SoftTarget', loss_weight=0.0)),
            )
        )


@ROOT_MODELS.register_module(force=True)
class TwoNetworks(hosts.ImageClassifier):
    """A model of a student and a teacher of its own, as for semi-supervised training."""

    def __init__(self, **kwargs: Any) -> None:
        parts = {key: part for key, part in tiny.classifier().items() if key != 'type'}
        super().__init__(**parts, **kwargs)
        self.student = self.backbone
        self.teacher = copy.deepcopy(self.backbone)
