"""The configs on COCO and VOC, with networks of a few channels, on four small pictures."""

import copy
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import coco_files
from helpers import detection as small
from helpers.configs import FOLDER, NAMES, build, fresh, last_checkpoint, read, save
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from mmkd_plugin.loading.build import build_network, network_config

COCO = [name for name in NAMES if name.endswith('_coco')]
VOC = [name for name in NAMES if name.endswith('_voc0712')]
STOCK = {
    'retinanet': 'retinanet/retinanet',
    'gfl': 'gfl/gfl',
    'faster_rcnn': 'faster_rcnn/faster-rcnn',
}
CLASSES = ('person', 'car', 'cat')  # of both data sets
_BACKBONE = dict(
    _delete_=True, type='ResNet', depth=18, base_channels=4, stem_channels=4, norm_eval=True
)


def family_of(name: str) -> str:
    """Return the detector of a config on COCO."""
    student = Path(name).name.replace('faster-rcnn', 'faster_rcnn')
    return next((family for family in STOCK if f'_{family}_' in student), 'retinanet')


def shrunk(name: str) -> dict[str, Any]:
    """Return the options, below ``model``, that make a network of this config small."""
    if name in VOC:
        channels = (8, 16, 32, 16, 8, 8)
        options = dict(backbone=dict(_BACKBONE, out_indices=(1, 2, 3)))
        return {
            **options,
            'neck.in_channels': channels[:3],
            'neck.out_channels': channels,
            'bbox_head.in_channels': channels,
        }
    options = {
        key.removeprefix('model.'): value
        for key, value in small.FAMILIES[family_of(name)][1].items()
    }
    return {
        'backbone': dict(_BACKBONE, frozen_stages=1),
        **{
            key: value
            for key, value in options.items()
            if not key.startswith('backbone') and 'num_classes' not in key
        },
    }


def local(name: str, root: Path) -> Config:
    """Return the config with small networks, and with teachers and pictures below ``root``."""
    cfg = fresh(name)
    options = shrunk(name)

    def below(key: str) -> dict[str, Any]:
        return {f'{key}.{option}': value for option, value in copy.deepcopy(options).items()}

    if name.startswith('baselines/'):
        cfg.merge_from_dict(below('model'))
    elif 'student' in cfg.model:
        cfg.merge_from_dict(below('model.student'))
    teachers = [
        *cfg.model.get('teachers', []),
        *([cfg.model.teacher] if 'teacher' in cfg.model else []),
    ]
    for seed, teacher in enumerate(teachers, start=1):
        teacher.cfg_options = below('model')
        teacher.checkpoint = str(root / f'{Path(name).name}_{teacher.name}.pth')
        if not Path(teacher.checkpoint).exists():
            network = build_network(
                network_config(teacher.model, 'teacher', teacher.cfg_options), 'teacher'
            )
            small.varied(network, seed)
            if 'faster-rcnn' in name:  # confident of something, among 81 classes
                network.roi_head.bbox_head.fc_cls.weight.data *= 5
            save(network, teacher.checkpoint)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    dataset = cfg.train_dataloader.dataset
    if name in VOC:
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
    model = build(cfg)
    if 'teacher' not in cfg.model:  # a paraphraser keeps its own initial weights
        small.varied(model.student if 'student' in cfg.model else model)
    return model


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write pictures, untrained teachers, and paraphrasers at the paths that the configs name."""
    root = coco_files.write(tmp_path_factory.mktemp('detection'), classes=CLASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_WORK_DIR', str(root))
        for name in [*COCO, *VOC]:
            if name.startswith('ie_kd/paraphraser'):
                cfg = local(name, root)
                # The teacher of the distilling config is that of its paraphrasers.
                user = next(
                    other
                    for other in (*COCO, *VOC)
                    if other.startswith('ie_kd/ie-ft') and (other in VOC) == (name in VOC)
                )
                teacher = local(user, root).model.teachers[0]
                cfg.model.teacher.update(
                    checkpoint=teacher.checkpoint, cfg_options=teacher.cfg_options
                )
                save(built(cfg), root / Path(name).name / last_checkpoint(cfg))
    return root


@pytest.mark.slow
@pytest.mark.parametrize('name', [*COCO, *VOC])
def test_one_step_moves_every_parameter(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MMKD_WORK_DIR', str(root))
    cfg = local(name, root)
    model = built(cfg)
    if 'teachers' in cfg.model:  # as EvaluateTeachers would
        model.set_teacher_scores([1.0 - number for number in range(len(model.teachers))])
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    total, logged = model.parse_losses(
        model(**model.train().data_preprocessor(batch, True), mode='loss')
    )
    assert all(value.isfinite().all() for value in logged.values())
    for method in cfg.model.get('methods', {}):
        assert any(key.startswith(f'{method}.loss') and value != 0 for key, value in logged.items())
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    before = {key: p.detach().clone() for key, p in trained.items()}
    wrapper.update_params(total)
    still = [key for key, p in before.items() if p.numel() > 1 and torch.equal(p, trained[key])]
    # FGD's last convolutions begin at 0, so biases before them have no gradient in the first step.
    assert not [key for key in still if not re.search(r'contexts\..*transform\.1\.bias', key)]


@pytest.mark.parametrize('name', COCO)
def test_student_data_and_schedule_are_mmdets(name: str, tmp_path: Path) -> None:
    stocked = tmp_path / 'stock.py'
    stocked.write_text(f"_base_ = 'mmdet::{STOCK[family_of(name)]}_r50_fpn_1x_coco.py'")
    cfg, stock = read(name), Config.fromfile(stocked)
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator'):
        assert cfg[key] == stock[key], key
    if 'student' in cfg.model:
        assert cfg.model.student == stock.model
        assert (cfg.param_scheduler, cfg.train_cfg) == (stock.param_scheduler, stock.train_cfg)


@pytest.mark.parametrize('name', COCO)
def test_the_teachers_are_those_that_mmdet_publishes(name: str) -> None:
    model = read(name).model
    for teacher in [*model.get('teachers', []), *([model.teacher] if 'teacher' in model else [])]:
        config = teacher.model.removeprefix('mmdet::')
        metafile = yaml.safe_load(
            (files('mmdet') / f'.mim/configs/{Path(config).parent}/metafile.yml').read_text()
        )
        [published] = [one for one in metafile['Models'] if one['Config'] == f'configs/{config}']
        assert teacher.checkpoint == published['Weights']


def test_ssd_on_resnet_has_the_levels_of_its_anchors() -> None:
    cfg = read('baselines/ssd300_r18_8xb8-24e_voc0712')
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
    # SSDHead of MMDet 3.3 cannot predict; the config imports what it lacks.
    predicted = model.bbox_head.predict(
        small.varied(model).extract_feat(torch.zeros(1, 3, 300, 300)),
        [small.sample([], [], (300, 300))],
    )
    assert len(predicted) == 1


@pytest.mark.parametrize(
    'name', ['baselines/ssd300_r18_8xb8-24e_voc0712', 'ie_kd/ie-ft_ssd300_r50_r18_8xb8-24e_voc0712']
)
def test_a_reconstruction_is_marked(name: str) -> None:
    assert name in VOC
    assert '# Reconstructed: ' in (FOLDER / f'{name}.py').read_text()
