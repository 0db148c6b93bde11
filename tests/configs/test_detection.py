"""The configs on COCO and VOC, with networks of a few channels, on four pictures in COCO's and in VOC's format."""

import copy
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import coco_files
from helpers import detection as small
from helpers.index_entry import index_entry
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmkd_plugin.loading.build import build_network, network_config

FOLDER = Path(__file__).parents[2] / 'configs/detection'
COCO, VOC = sorted((FOLDER / 'coco').glob('*.py')), sorted((FOLDER / 'voc').glob('*.py'))
DISTILLED = {
    'ie_kd_retinanet': 'retinanet',
    'kd_faster_rcnn': 'faster_rcnn',
    'kd_gfl': 'gfl',
    'amtml_gfl': 'gfl',
}
PLAIN = ('ssd300_r18', 'ssd300_r50')
CLASSES = ('person', 'car', 'cat')  # of both data sets
_BACKBONE = dict(
    _delete_=True, type='ResNet', depth=18, base_channels=4, stem_channels=4, norm_eval=True
)


def stem(path: Path) -> str:
    return path.stem


@cache
def read(path: Path) -> Config:
    """A config that is only looked at."""
    return Config.fromfile(path)


def shrunk(path: Path) -> dict[str, Any]:
    """What makes a network of this config small, below ``model``."""
    if path in VOC:
        channels = (8, 16, 32, 16, 8, 8)
        options = dict(backbone=dict(_BACKBONE, out_indices=(1, 2, 3)))
        return {
            **options,
            'neck.in_channels': channels[:3],
            'neck.out_channels': channels,
            'bbox_head.in_channels': channels,
        }
    family = next(
        (own for name, own in DISTILLED.items() if stem(path).startswith(name)), 'retinanet'
    )
    options = {
        name.removeprefix('model.'): value for name, value in small.FAMILIES[family][1].items()
    }
    return {
        'backbone': dict(_BACKBONE, frozen_stages=1),
        **{
            name: value
            for name, value in options.items()
            if not name.startswith('backbone') and 'num_classes' not in name
        },
    }


def local(path: Path, root: Path) -> Config:
    """The config with small networks, its teachers and pictures below ``root``."""
    cfg = Config.fromfile(path)
    options = shrunk(path)
    if stem(path).startswith(PLAIN):
        cfg.merge_from_dict(
            {f'model.{name}': value for name, value in copy.deepcopy(options).items()}
        )
    elif 'student' in cfg.model:
        cfg.merge_from_dict(
            {f'model.student.{name}': value for name, value in copy.deepcopy(options).items()}
        )
    taught = [
        *cfg.model.get('teachers', []),
        *([cfg.model.teacher] if 'teacher' in cfg.model else []),
    ]
    for seed, teacher in enumerate(taught, start=1):
        teacher.cfg_options = {
            f'model.{name}': value for name, value in copy.deepcopy(options).items()
        }
        teacher.checkpoint = str(root / f'{stem(path)}_{teacher.name}.pth')
        if not Path(teacher.checkpoint).exists():
            network = build_network(
                network_config(teacher.model, 'teacher', teacher.cfg_options), 'teacher'
            )
            small.varied(network, seed)
            if 'faster_rcnn' in stem(path):
                network.roi_head.bbox_head.fc_cls.weight.data *= (
                    5  # sure of something, among 81 classes
                )
            torch.save(dict(state_dict=network.state_dict()), teacher.checkpoint)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    dataset = cfg.train_dataloader.dataset
    if path in VOC:
        for part in dataset.dataset.datasets:
            part.update(
                data_root=str(root),
                ann_file='VOC2007/ImageSets/Main/all.txt',
                data_prefix=dict(sub_data_root='VOC2007/'),
            )
    else:
        dataset.update(
            data_root=str(root), ann_file='annotations.json', data_prefix=dict(img='images/')
        )
        next(step for step in dataset.pipeline if step.type == 'Resize').scale = (96, 96)
    return cfg


def built(cfg: Config) -> Any:
    model = MODELS.build({**cfg.model, '_scope_': 'mmdet'})
    if 'teacher' not in cfg.model:  # a paraphraser knows how to begin
        small.varied(model.student if 'student' in cfg.model else model)
    return model


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, teachers that learned nothing, and their paraphrasers where the configs look for them."""
    root = coco_files.write(tmp_path_factory.mktemp('detection'), classes=CLASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_WORK_DIR', str(root))
        for path in [*COCO, *VOC]:
            if stem(path).startswith('paraphraser'):
                cfg = local(path, root)
                # The distilling config's teacher is the one that its paraphrasers were trained on.
                user = next(
                    p
                    for p in (*COCO, *VOC)
                    if stem(p).startswith('ie_kd') and (p in VOC) == (path in VOC)
                )
                taught = local(user, root).model.teachers[0]
                cfg.model.teacher.update(
                    checkpoint=taught.checkpoint, cfg_options=taught.cfg_options
                )
                (root / stem(path)).mkdir()
                name = f'epoch_{cfg.train_cfg.max_epochs}.pth'
                torch.save(dict(state_dict=built(cfg).state_dict()), root / stem(path) / name)
    return root


@pytest.mark.slow
@pytest.mark.parametrize('path', [*COCO, *VOC], ids=stem)
def test_built_and_one_step(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MMKD_WORK_DIR', str(root))
    cfg = local(path, root)
    model = built(cfg)
    if 'teachers' in cfg.model:
        model.set_teacher_scores(
            [1.0 - number for number in range(len(model.teachers))]
        )  # as EvaluateTeachers would
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    total, logged = model.parse_losses(
        model(**model.train().data_preprocessor(batch, True), mode='loss')
    )
    assert all(value.isfinite().all() for value in logged.values())
    for name in cfg.model.get('methods', {}):
        assert any(key.startswith(f'{name}.loss') and value != 0 for key, value in logged.items())
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in learning.items()}
    wrapper.update_params(total)
    assert not [
        name for name, p in before.items() if p.numel() > 1 and torch.equal(p, learning[name])
    ], 'every parameter learns'


def test_small_and_stock(tmp_path: Path) -> None:
    assert all(
        len(path.read_text().splitlines()) <= 60
        for folder in ('coco', 'voc')
        for path in (FOLDER / folder).rglob('*.py')
    )
    for path in COCO:
        family = next(
            (own for name, own in DISTILLED.items() if stem(path).startswith(name)), 'retinanet'
        )
        stocked = tmp_path / 'stock.py'
        name = {
            'retinanet': 'retinanet/retinanet',
            'gfl': 'gfl/gfl',
            'faster_rcnn': 'faster_rcnn/faster-rcnn',
        }[family]
        stocked.write_text(f"_base_ = 'mmdet::{name}_r50_fpn_1x_coco.py'")
        cfg, stock = read(path), Config.fromfile(stocked)
        for key in ('train_dataloader', 'val_dataloader', 'val_evaluator'):
            assert cfg[key] == stock[key], key
        if 'student' in cfg.model:
            assert cfg.model.student == stock.model
            assert (cfg.param_scheduler, cfg.train_cfg) == (stock.param_scheduler, stock.train_cfg)


@pytest.mark.parametrize('path', COCO, ids=stem)
def test_teachers_are_those_that_mmdet_publishes(path: Path) -> None:
    model = read(path).model
    for teacher in [*model.get('teachers', []), *([model.teacher] if 'teacher' in model else [])]:
        config = teacher.model.removeprefix('mmdet::')
        metafile = yaml.safe_load(
            (files('mmdet') / f'.mim/configs/{Path(config).parent}/metafile.yml').read_text()
        )
        [published] = [one for one in metafile['Models'] if one['Config'] == f'configs/{config}']
        assert teacher.checkpoint == published['Weights']


def test_ssd_on_resnet_has_the_levels_of_its_anchors() -> None:
    cfg = read(FOLDER / 'voc/ssd300_r18_voc0712.py')
    model = build_network(
        network_config(
            dict(cfg.model), 'ssd', {'model.backbone.init_cfg': None, '_scope_': 'mmdet'}
        ),
        'ssd',
    )
    with torch.no_grad():
        maps = model.eval().extract_feat(torch.zeros(1, 3, 300, 300))
    assert [tuple(level.shape[2:]) for level in maps] == [
        (side, side) for side in (38, 19, 10, 5, 3, 1)
    ]
    # As MMDet 3.3 is published, SSDHead cannot predict; the config imports what it lacks.
    predicted = model.bbox_head.predict(
        small.varied(model).extract_feat(torch.zeros(1, 3, 300, 300)),
        [small.sample([], [], (300, 300))],
    )
    assert len(predicted) == 1


@pytest.mark.parametrize('path', [*COCO, *VOC], ids=stem)
def test_in_the_index(path: Path) -> None:
    index_entry(path, read(path))


@pytest.mark.parametrize('path', VOC, ids=stem)
def test_what_is_reconstructed_says_so(path: Path) -> None:
    assert 'econstructed' in (FOLDER / 'voc/_base_/ssd300_resnet18.py').read_text()
    if stem(path).startswith('ie_kd'):
        assert 'Reconstructed' in path.read_text()
