"""Replayed teachers of detectors: class scores at the locations that teach, and maps."""

import copy
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import classification as tiny
from helpers import coco_files
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import Tensor

TAP = dict(student='neck[0]', teacher='neck[0]')
BACKGROUND = 0.02


def config(folder: Path, replay: Any, family: str = 'gfl', **methods: Any) -> dict[str, Any]:
    detector = small.detector(family)
    teacher = small.teacher(folder, detector, 1)
    if replay is not None:
        teacher['replay'] = dict(path=str(folder / 'store'), **replay)
    locations = dict(background=BACKGROUND)
    methods = methods or dict(
        kd=dict(type='SoftTarget', locations=locations), hint=dict(type='Hint', pairs=[TAP])
    )
    return dict(type='mmkd_plugin.Distiller', student=detector, teachers=[teacher], methods=methods)


def run(folder: Path, name: str, model: dict[str, Any]) -> dict[str, Tensor]:
    if not (folder / 'annotations.json').exists():
        coco_files.write(folder)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=dict(
            type='mmkd_plugin.ReplayedDataset', views=2, dataset=coco_files.dataset(folder)
        ),
        sampler=dict(type='mmkd_plugin.ReplaySampler', shuffle=True),
    )
    runner = tiny.runner(
        ROOT_MODELS.build(copy.deepcopy(model)),
        folder / name,
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        default_scope='mmdet',
    )
    runner.train()
    return tiny.weights_of(runner.model)


def replay(**changes: Any) -> dict[str, Any]:
    return dict(dtype='float32', background=BACKGROUND, locations=4000, **changes)


@pytest.mark.slow
def test_dense_detector_learns_from_a_store_as_from_its_teacher(tmp_path: Path) -> None:
    base = config(tmp_path, None)
    plain = run(tmp_path, 'plain', base)
    stored = copy.deepcopy(base)
    stored['teachers'][0]['replay'] = dict(path=str(tmp_path / 'store'), **replay())
    filled = run(tmp_path, 'filled', stored)
    assert not tiny.differing(plain, filled)
    with mock.patch(
        'mmkd_plugin.adapters.teacher.build_network', side_effect=AssertionError('built')
    ):
        read = run(tmp_path, 'read', stored)
    assert not tiny.differing(plain, read)


@pytest.mark.slow
def test_methods_on_maps_learn_from_a_store_as_from_a_teacher(tmp_path: Path) -> None:
    methods = {name.lower(): dict(type=name, pairs=[TAP]) for name in ('PKD', 'CWD', 'MGD', 'FGD')}
    base = config(tmp_path, None, **methods)
    plain = run(tmp_path, 'plain', base)
    stored = copy.deepcopy(base)
    stored['teachers'][0]['replay'] = dict(path=str(tmp_path / 'store'), dtype='float32')
    filled = run(tmp_path, 'filled', stored)
    assert not tiny.differing(plain, filled)
    with mock.patch(
        'mmkd_plugin.adapters.teacher.build_network', side_effect=AssertionError('built')
    ):
        read = run(tmp_path, 'read', stored)
    assert not tiny.differing(plain, read)


@pytest.mark.parametrize(
    'locations', [dict(), dict(weighting='uniform'), dict(background=0.01)], ids=str
)
def test_locations_that_the_store_leaves_out_are_refused(
    locations: dict[str, Any], tmp_path: Path
) -> None:
    kd = dict(type='SoftTarget', locations=locations)
    model = config(tmp_path, dict(background=0.06), kd=kd)
    with raises_config_error('methods.kd.locations', ANY, '0.06', fix='background'):
        ROOT_MODELS.build(model)


def test_several_detectors_cannot_store_scores(tmp_path: Path) -> None:
    model = config(tmp_path, replay(), kd=dict(type='SoftTarget'))
    model['teachers'] += [dict(small.teacher(tmp_path, small.detector('gfl'), 2), name='other')]
    with raises_config_error(f'teachers[0] ({model["teachers"][0]["name"]}).replay', 2, fix='one'):
        ROOT_MODELS.build(model)


def test_scores_of_regions_cannot_be_stored(tmp_path: Path) -> None:
    model = config(tmp_path, replay(), 'faster_rcnn', kd=dict(type='SoftTarget'))
    key = f'teachers[0] ({model["teachers"][0]["name"]}).replay'
    with raises_config_error(key, ANY, 'regions', fix='features'):
        ROOT_MODELS.build(model)
