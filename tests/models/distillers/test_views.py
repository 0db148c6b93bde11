"""Teachers with another view of the sample, in training runs of classifiers and detectors."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import coco_files, detection
from helpers.errors import ANY, raises_config_error
from helpers.views import NoiseImages, mosaic
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.views import MultiViewDataset

GREY = dict(type='RandomGrayscale', prob=1.0)
CROP = dict(type='RandomCrop', crop_size=32, padding=4)
FLIP = dict(type='RandomFlip', prob=0.5)
PACK = dict(type='PackInputs')
COLOUR = dict(pipeline=[CROP, FLIP, PACK])
LARGER = dict(pipeline=[CROP, FLIP, dict(type='Resize', scale=(64, 64)), PACK])
ONE = dict(type='ClsDataPreprocessor', mean=[120.0], std=[60.0], num_classes=4)


@pytest.fixture(autouse=True)
def scope() -> Any:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def data(**changes: Any) -> dict[str, Any]:
    """Return a data set of grey images, whose views are those of the teachers of the run."""
    inner = dict(
        type='NoiseImages', pipeline=[GREY, CROP, FLIP, PACK], _scope_='mmpretrain', **changes
    )
    return dict(type='mmkd_plugin.MultiViewDataset', dataset=inner)


def grey_student() -> dict[str, Any]:
    config = tiny.classifier()
    config['backbone']['in_channels'] = 1
    return config


def config(folder: Path, view: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """Return a grey student with one teacher in colour."""
    extra = dict(data_preprocessor=tiny.preprocessor(), fast=False)
    if view is not None:
        extra['view'] = copy.deepcopy(view)
    settings = dict(
        teachers=tiny.teachers(folder, 1, **extra), student=grey_student(), data_preprocessor=ONE
    )
    return tiny.distiller_config(folder, **{**settings, **changes})


def built(config: dict[str, Any]) -> Distiller:
    return ROOT_MODELS.build(copy.deepcopy(config))


def batch(dataset: Any, count: int = 4) -> dict[str, Any]:
    dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
    return pseudo_collate([dataset[index] for index in range(count)])


def seen(model: Distiller, raw: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the inputs of the student and of the teacher in one step, and the losses."""
    found: list[Tensor] = []
    handle = model.teachers[0].model.backbone.register_forward_pre_hook(
        lambda _, args: found.append(args[0])
    )
    inputs = model.data_preprocessor(raw, True)
    losses = model(**inputs, mode='loss')
    handle.remove()
    return inputs['inputs'], found[0], losses


@pytest.mark.parametrize(('view', 'side'), [(COLOUR, 32), (LARGER, 64)])
def test_teacher_receives_the_view_under_its_own_preprocessing(
    tmp_path: Path, view: dict[str, Any], side: int
) -> None:
    model = built(config(tmp_path, view))
    raw = batch(data())
    expected = torch.stack(raw['views']['t0']['inputs']).float().sub(120).div(60)
    own, other, losses = seen(model, copy.deepcopy(raw))
    assert own.shape == (4, 1, 32, 32)
    assert other.shape == (4, 3, side, side)
    assert torch.equal(other, expected)
    assert torch.equal(own, torch.stack(raw['inputs']).float().sub(120).div(60))
    assert any(name.startswith('kd.loss') and value > 0 for name, value in losses.items())


def test_two_teachers_with_views_and_one_without(tmp_path: Path) -> None:
    teachers = tiny.teachers(tmp_path, 3, fast=False)
    teachers[0]['view'] = COLOUR
    teachers[2]['view'] = LARGER
    model = built(tiny.distiller_config(tmp_path, teachers=teachers))
    dataset = data()
    dataset['dataset']['pipeline'] = [CROP, FLIP, PACK]
    found: dict[int, Tensor] = {}
    for index, teacher in enumerate(model.teachers):
        teacher.model.backbone.register_forward_pre_hook(
            lambda _, args, index=index: found.update({index: args[0]})
        )
    inputs = model.data_preprocessor(batch(dataset), True)
    model(**inputs, mode='loss')
    assert found[1] is inputs['inputs']
    assert torch.equal(found[0], found[1]), 'the same pipeline shows the same'
    assert found[2].shape[2:] == (64, 64)


@pytest.mark.parametrize('size', [(16, 16), 64, (48, 32)])
def test_size_resizes_the_batch_of_the_student(tmp_path: Path, size: Any) -> None:
    teachers = tiny.teachers(tmp_path, 1, fast=False, view=dict(size=size))
    model = built(tiny.distiller_config(tmp_path, teachers=teachers))
    own, other, _ = seen(model, tiny.batch_of())
    sides = (size, size) if isinstance(size, int) else size
    expected = torch.nn.functional.interpolate(
        own, sides, mode='bilinear', antialias=True, align_corners=False
    )
    assert torch.equal(other, expected)


def test_evaluation_and_plain_batches_are_those_of_the_student(tmp_path: Path) -> None:
    model = built(config(tmp_path, COLOUR))
    raw = batch(data())
    plain = {name: value for name, value in raw.items() if name != 'views'}
    predictions = [model.val_step(one) for one in (raw, plain)]
    assert torch.equal(*(one[0].pred_score for one in predictions))


def test_batch_without_the_view_names_the_line_to_add(tmp_path: Path) -> None:
    model = built(config(tmp_path, COLOUR))
    raw = batch(dict(data()['dataset']))
    words = "train_dataloader.dataset=dict(type='mmkd_plugin.MultiViewDataset', dataset=…)"
    with raises_config_error('teachers[0] (t0).view', None, fix=words):
        model.data_preprocessor(raw, True)


@pytest.mark.parametrize(
    ('view', 'key'),
    [
        (dict(), 'view'),
        (dict(pipeline=[PACK], size=4), 'view'),
        (dict(size=(0, 3)), 'view.size'),
        (dict(size='large'), 'view.size'),
        (dict(pipeline=[]), 'view.pipeline'),
        (dict(pipeline=[dict(type='Nowhere')]), 'view.pipeline[0]'),
        (dict(pipeline=[PACK, dict(prob=1)]), 'view.pipeline[1]'),
        (dict(pipelines=[PACK]), 'view.pipelines'),
        ('rgb', 'view'),
    ],
)
def test_wrong_view_is_refused_when_the_model_is_built(tmp_path: Path, view: Any, key: str) -> None:
    with raises_config_error(f'teachers[0] (t0).{key}', ANY):
        built(config(tmp_path, view))


def test_weights_of_zero_need_and_make_no_view(tmp_path: Path) -> None:
    model = built(config(tmp_path, COLOUR, methods=dict(kd=dict(type='SoftTarget', loss_weight=0))))
    raw = batch(data())
    assert 'views' not in raw
    assert list(tiny.losses_of(model, raw)) == ['task.loss']


def test_mixup_mixes_the_same_images(tmp_path: Path) -> None:
    student = tiny.classifier(train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)))
    teachers = tiny.teachers(tmp_path, 1, fast=False, view=LARGER)
    model = built(tiny.distiller_config(tmp_path, student=student, teachers=teachers))
    dataset = data()
    dataset['dataset']['pipeline'] = [CROP, FLIP, PACK]
    resize = dict(type='Resize', scale=(64, 64), interpolation='nearest')
    views = dict(t0=dict(pipeline=[CROP, FLIP, resize, PACK]))
    own, other, _ = seen(model, batch(MultiViewDataset(dataset['dataset'], views)))
    torch.testing.assert_close(other[:, :, ::2, ::2], own)


def test_cutmix_at_another_resolution_is_refused(tmp_path: Path) -> None:
    student = tiny.classifier(train_cfg=dict(augments=dict(type='CutMix', alpha=1.0)))
    teachers = tiny.teachers(tmp_path, 1, view=LARGER)
    model = built(tiny.distiller_config(tmp_path, student=student, teachers=teachers))
    dataset = data()
    dataset['dataset']['pipeline'] = [CROP, FLIP, PACK]
    with raises_config_error('teachers', ANY, 'CutMix'):
        for _ in range(8):
            seen(model, batch(dataset))


def replayed(folder: Path, model: Any, epochs: int, **changes: Any) -> Any:
    """Return a Runner whose samples are numbered views, so that a resumed run can be compared."""
    loader = dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(type='mmkd_plugin.ReplayedDataset', dataset=data(length=8), views=4),
        sampler=dict(type='mmkd_plugin.ReplaySampler', shuffle=True),
    )
    settings = dict(
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    )
    return tiny.runner(copy.deepcopy(model), folder, **{**settings, **changes})


def test_resumed_run_ends_like_one_that_was_not_stopped(tmp_path: Path) -> None:
    methods = dict(
        kd=dict(type='SoftTarget'),
        hint=dict(type='Hint', pairs=[dict(student='backbone', teacher='backbone')]),
    )
    model = config(tmp_path, LARGER, methods=methods)
    model['teachers'][0]['standardize'] = dict(batches=3)
    whole = replayed(tmp_path / 'whole', model, 3)
    whole.train()
    replayed(tmp_path / 'parts', model, 1).train()
    saved = str(tmp_path / 'parts' / 'epoch_1.pth')
    again = replayed(tmp_path / 'parts', model, 3, load_from=saved, resume=True)
    again.train()
    assert again.iter == whole.iter == 6
    assert tiny.differing(tiny.weights_of(whole.model), tiny.weights_of(again.model)) == []


def test_teacher_is_evaluated_on_its_view(tmp_path: Path) -> None:
    model = built(config(tmp_path, COLOUR))
    teacher = model.teachers[0]
    still = [PACK]
    dataset = data()['dataset'] | dict(pipeline=[GREY, PACK])
    raw = batch(MultiViewDataset(dataset, dict(t0=dict(pipeline=still))))
    found = teacher.predict(raw, torch.device('cpu'))
    expected = teacher.model.val_step(raw['views']['t0'])
    assert torch.equal(found[0].pred_score, expected[0].pred_score)
    raw = batch(data()['dataset'])
    with raises_config_error('teachers[0] (t0).view', None, fix='val_dataloader.dataset'):
        teacher.predict(raw, torch.device('cpu'))


# Detectors

DET_FLIP = dict(type='RandomFlip', prob=0.5)
DET_PACK = dict(type='PackDetInputs')
LOADS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]


def det_pipeline(scale: tuple[int, int], *others: dict[str, Any]) -> list[dict[str, Any]]:
    resize = dict(type='Resize', scale=scale, keep_ratio=True)
    return copy.deepcopy([*LOADS, *others, resize, DET_FLIP, DET_PACK])


def scenes(folder: Path, *others: dict[str, Any]) -> dict[str, Any]:
    """Return the config of small scenes."""
    inner = coco_files.dataset(coco_files.write(folder / 'coco'))
    return {**inner, 'pipeline': det_pipeline((64, 64), *others)}


def det_config(folder: Path, view: dict[str, Any], method: Any) -> Any:
    config = detection.detector('retinanet')
    path = folder / 'teacher.pth'
    torch.save(dict(state_dict=ROOT_MODELS.build(copy.deepcopy(config)).state_dict()), path)
    return dict(
        type='mmkd_plugin.Distiller',
        student=detection.detector('retinanet'),
        teachers=[dict(name='t0', model=config, checkpoint=str(path), view=view, fast=False)],
        methods=dict(one=method),
    )


FPN = [dict(student='neck[0]', teacher='neck[0]')]
HINT = dict(type='Hint', pairs=FPN)


@pytest.mark.parametrize(('scale', 'side'), [((64, 64), 64), ((128, 128), 128)])
def test_detector_with_a_view(tmp_path: Path, scale: tuple[int, int], side: int) -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = built(det_config(tmp_path, dict(pipeline=det_pipeline(scale)), HINT))
        dataset = MultiViewDataset(scenes(tmp_path))
        raw = batch(dataset)
        flips = [one.flip for one in raw['data_samples']]
        assert flips == [one.flip for one in raw['views']['t0']['data_samples']]
        own, other, losses = seen(model, raw)
    assert own.shape == (4, 3, 64, 64)
    assert other.shape == (4, 3, side, side)
    shrunk = torch.nn.functional.avg_pool2d(other, side // 64)
    assert (shrunk - own).abs().mean() < 0.5 * (shrunk.flip(3) - own).abs().mean()
    assert losses['one.loss_hint'].isfinite()


def test_class_scores_of_locations_need_the_same_size(tmp_path: Path) -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        view = dict(pipeline=det_pipeline((128, 128)))
        model = built(det_config(tmp_path, view, dict(type='SoftTarget')))
        raw = batch(MultiViewDataset(scenes(tmp_path)))
        with raises_config_error('teachers[0] (t0).view', (128, 128), 'class scores'):
            seen(model, raw)


def test_mosaic_is_refused_by_name(tmp_path: Path) -> None:
    coco_files.write(tmp_path)
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = MultiViewDataset(mosaic(tmp_path), dict(t0=dict(pipeline=det_pipeline((64, 64)))))
        with raises_config_error('dataset', 'MultiImageMixDataset', fix='Mosaic'):
            dataset.full_init()


assert NoiseImages  # it is registered
