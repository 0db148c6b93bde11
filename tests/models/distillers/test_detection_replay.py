"""Replayed teachers of detectors: class scores at the locations that teach, and maps."""

import copy
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import classification as tiny
from helpers import coco_files
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from helpers.replayed import no_network
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import Tensor

from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.models.methods import Method, Requests
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.registry import MODELS

TAP = dict(student='neck[0]', teacher='neck[0]')
BACKGROUND = 0.02
SCORES = dict(type='SoftTarget', locations=dict(background=BACKGROUND))


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
    base['methods']['dist'] = dict(SCORES, type='DIST')
    plain = run(tmp_path, 'plain', base)
    stored = copy.deepcopy(base)
    stored['teachers'][0]['replay'] = dict(path=str(tmp_path / 'store'), **replay())
    filled = run(tmp_path, 'filled', stored)
    assert not tiny.differing(plain, filled)
    with no_network():
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
    with no_network():
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


def of_two(folder: Path, *stored: bool) -> dict[str, Any]:
    """Return a student of the mixture of two detectors; each may be stored."""
    locations = dict(background=BACKGROUND)
    kd = dict(type='SoftTarget', locations=locations)
    model = config(folder, None, kd=kd)
    second = dict(small.teacher(folder, small.detector('gfl'), 2), name='other')
    model['teachers'].append(second)
    for index, one in enumerate(stored):
        if one:
            model['teachers'][index]['replay'] = dict(
                path=str(folder / f'store{index}'), **replay()
            )
    return model


def counted() -> Any:
    """Count the runs of networks."""
    observe = TappedModel.observe
    return mock.patch.object(TappedModel, 'observe', autospec=True, side_effect=observe)


@pytest.mark.slow
def test_two_detectors_are_stored_at_the_locations_where_one_of_them_teaches(
    tmp_path: Path,
) -> None:
    plain_model = of_two(tmp_path, False, False)
    model = copy.deepcopy(plain_model)
    for index, one in enumerate(model['teachers']):
        one['replay'] = dict(path=str(tmp_path / f'store{index}'), **replay())
    plain = run(tmp_path, 'plain', plain_model)
    with counted() as ran:
        assert not tiny.differing(plain, run(tmp_path, 'filled', model))
    once = len([call for call in ran.call_args_list if call.args[0].key.startswith('teachers')])
    with no_network():
        assert not tiny.differing(plain, run(tmp_path, 'read', model))
    shutil.rmtree(tmp_path / 'store0')  # made again, by what the other store has kept
    with counted() as ran:
        assert not tiny.differing(plain, run(tmp_path, 'again', model))
    again = len([call for call in ran.call_args_list if call.args[0].key.startswith('teachers')])
    assert once == 2 * again > 0  # each network ran once a batch
    only = copy.deepcopy(plain_model)
    only['teachers'][0]['replay'] = model['teachers'][0]['replay']
    assert not tiny.differing(plain, run(tmp_path, 'one network', only))


def test_store_without_the_locations_of_another_detector_is_refused(tmp_path: Path) -> None:
    model = of_two(tmp_path, True, False)
    alone = copy.deepcopy(model)
    del alone['teachers'][1]
    run(tmp_path, 'alone', alone)
    key = f'teachers[0] ({model["teachers"][0]["name"]}).replay.other_teachers'
    with raises_config_error(key, ANY, 'not that of the store', fix='another path'):
        ROOT_MODELS.build(model)


def test_store_of_two_detectors_serves_one_of_them(tmp_path: Path) -> None:
    model = of_two(tmp_path, True, True)
    run(tmp_path, 'both', model)
    del model['teachers'][1]
    plain = copy.deepcopy(model)
    del plain['teachers'][0]['replay']
    with no_network():
        found = run(tmp_path, 'one', model)
    assert not tiny.differing(run(tmp_path, 'plain', plain), found)


@pytest.mark.parametrize('change', [dict(locations=300), dict(background=0.01)], ids=str)
def test_stores_of_two_detectors_keep_the_same_locations(change: Any, tmp_path: Path) -> None:
    model = of_two(tmp_path, True, True)
    model['teachers'][1]['replay'].update(change)
    [(name, value)] = change.items()
    key = f'teachers[1] ({model["teachers"][1]["name"]}).replay.{name}'
    with raises_config_error(key, value, 'teachers[0]'):
        ROOT_MODELS.build(model)


@MODELS.register_module(force=True)
class BoxDistance(Method):
    """A method on boxes, at the locations where the teacher teaches, or at all of them."""

    def __init__(self, everywhere: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight=loss_weight)
        self.locations = None if everywhere else LocationWeights(background=BACKGROUND)

    def requests(self, num_teachers: int) -> Requests:
        return Requests(teachers=((),) * num_teachers, boxes=True)

    def forward(self, student: Any, teachers: Any, labels: Tensor | None) -> dict[str, Tensor]:
        own, other = student.boxes, teachers[0].boxes.on_levels(student.boxes.levels)
        assert self.locations is not None
        weights = self.locations(teachers[0].scores.confidence(), own.valid)
        distance = (own.values - other.values).abs().flatten(2).mean(dim=2)
        return {'loss_box': (weights * distance).sum()}


@pytest.mark.slow
def test_stored_boxes_teach_as_those_of_the_network(tmp_path: Path) -> None:
    model = config(tmp_path, replay(), boxes=dict(type='BoxDistance'))
    alone = copy.deepcopy(model)
    del alone['teachers'][0]['replay']
    plain = run(tmp_path, 'plain', alone)
    assert not tiny.differing(plain, run(tmp_path, 'filled', model))
    with no_network():
        assert not tiny.differing(plain, run(tmp_path, 'read', model))


def test_boxes_that_a_store_lacks_are_refused(tmp_path: Path) -> None:
    model = config(tmp_path, replay(), kd=dict(SCORES))
    run(tmp_path, 'scores', model)
    model['methods'] = dict(boxes=dict(type='BoxDistance'))
    key = f'teachers[0] ({model["teachers"][0]["name"]}).replay.path'
    with raises_config_error(key, ANY, 'without boxes', 'class scores'):
        ROOT_MODELS.build(model)


def test_method_that_reads_every_location_is_refused(tmp_path: Path) -> None:
    model = config(tmp_path, replay(), boxes=dict(type='BoxDistance', everywhere=True))
    with raises_config_error('methods.boxes.type', 'BoxDistance', 'every location', fix='replay'):
        ROOT_MODELS.build(model)


def test_scores_of_regions_cannot_be_stored(tmp_path: Path) -> None:
    model = config(tmp_path, replay(), 'faster_rcnn', kd=dict(type='SoftTarget'))
    key = f'teachers[0] ({model["teachers"][0]["name"]}).replay'
    with raises_config_error(key, ANY, 'regions', fix='features'):
        ROOT_MODELS.build(model)
