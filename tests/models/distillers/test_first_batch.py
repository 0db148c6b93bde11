"""Checks of the first batch, and labels that are made where a method requests them."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.engine import PeerOptimWrappers

LABEL = tiny.amtml(objective='label')


@pytest.mark.parametrize(
    ('methods', 'calls'),
    [
        (dict(kd=dict(type='SoftTarget')), 0),
        (dict(kd=dict(type='SoftTarget'), amtml=LABEL), 1),
        (dict(a=LABEL, b=LABEL), 1),
    ],
    ids=['none', 'one', 'two'],
)
def test_labels_of_a_batch_are_made_once_if_a_method_requests_them(
    methods: dict[str, Any], calls: int, tmp_path: Path
) -> None:
    model = tiny.distiller(tmp_path, methods=methods)
    adapter = model.tapped.adapter
    with patch.object(adapter, 'labels', wraps=adapter.labels) as labels:
        tiny.losses_of(model)
    assert labels.call_count == calls


@pytest.mark.parametrize('same', [True, False], ids=['SimCLR', 'classifier'])
def test_several_views_of_an_image_are_refused_for_teachers(same: bool, tmp_path: Path) -> None:
    student = dict(
        type='SimCLR',
        backbone=dict(tiny.classifier()['backbone'], type='mmkd_plugin.CifarResNet'),
        neck=dict(type='NonLinearNeck', in_channels=16, hid_channels=8, out_channels=8),
        head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss')),
        data_preprocessor=dict(tiny.preprocessor(), type='SelfSupDataPreprocessor'),
    )
    student['data_preprocessor'].pop('num_classes')
    hint = dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer2')])
    teachers = tiny.teachers(tmp_path, 1, data_preprocessor=tiny.preprocessor())
    if same:
        teachers = [
            dict(name='t0', model=student, checkpoint=tiny.checkpoint(tmp_path, student, seed=3))
        ]
    methods = dict(hint=hint)
    model = tiny.distiller(tmp_path, student=student, teachers=teachers, methods=methods).train()
    raw = tiny.batch_of()
    view = torch.stack(raw['inputs'])
    views = dict(inputs=[view, view.flip(3)], data_samples=raw['data_samples'])
    key = 'teachers[0] (t0)' if same else 'teachers'
    with raises_config_error(key, '2 views', fix='MultiView'):
        tiny.losses_of(model, views)


def test_check_that_failed_is_repeated_on_the_next_batch(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path)
    for _ in range(2):
        with raises_config_error('task_weight', 1.0, fix='task_weight=0'):
            tiny.losses_of(model, tiny.batch_of(labels=False))
    tiny.losses_of(model)


def test_later_batch_without_labels_that_a_method_needs_is_refused(tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, task_weight=0, methods=dict(a=LABEL))
    tiny.losses_of(model)
    with raises_config_error('methods.a'):
        tiny.losses_of(model, tiny.batch_of(labels=False))


def test_peers_are_checked_before_the_first_of_them_is_updated() -> None:
    model = ROOT_MODELS.build(tiny.mutual_config()).train()
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=0.1)))(model)
    before = tiny.weights_of(model)
    with raises_config_error('task_weight', 1.0, fix='task_weight=0'):
        model.train_step(tiny.batch_of(labels=False), wrappers)
    assert tiny.differing(before, model.state_dict()) == []


def test_checks_of_peers_run_once() -> None:
    model = ROOT_MODELS.build(tiny.mutual_config()).train()
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=0.1)))(model)
    adapter = model.all_peers()[1].tapped.adapter
    with patch.object(adapter, 'missing_labels', wraps=adapter.missing_labels) as check:
        model.train_step(tiny.batch_of(), wrappers)
        model.train_step(tiny.batch_of(), wrappers)
    assert check.call_count == 1
