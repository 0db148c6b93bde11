"""Configs in MMEngine's new style, and folders with awkward names, in every tool."""

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import classification as tiny
from helpers.checkpoints import state_of
from helpers.errors import raises_config_error
from mmengine.config import Config

from mmkd_plugin.adapters.inspect_taps import tap_points
from mmkd_plugin.engine.stages import WORK_ROOT_VARIABLE, load_stages, train_stages, work_root
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.export import export_student
from mmkd_plugin.loading.student import network_of
from mmkd_plugin.recipes.train import edit

TOOLS = Path(__file__).parents[2] / 'tools'

NETWORK = """
from mmpretrain.models import ClsDataPreprocessor, GlobalAveragePooling, ImageClassifier
from mmpretrain.models import CrossEntropyLoss, LinearClsHead
from mmkd_plugin.models.backbones import CifarResNet

data_preprocessor = dict(
    type=ClsDataPreprocessor, num_classes=4, mean=[120.0] * 3, std=[60.0] * 3)
model = dict(
    type=ImageClassifier,
    backbone=dict(type=CifarResNet, depth=8, base_channels=4),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=4, in_channels=16, topk=(1,),
              loss=dict(type=CrossEntropyLoss)))
"""

STUDENT = """
from mmengine.config import read_base

with read_base():
    from .network import *

from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmpretrain.evaluation import Accuracy
from torch.optim import SGD

from helpers.classification import TinyImages
from mmkd_plugin.engine.hooks import EvaluateTeachers, SaveStudent
from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.models.methods import Hint, SoftTarget

student = model
model = dict(
    type=Distiller,
    student=student,
    teachers=[
        dict(name='file', model='NETWORK', checkpoint='CHECKPOINT'),
        dict(name='classes', model=student, checkpoint='CHECKPOINT'),
    ],
    methods=dict(
        kd=dict(type=SoftTarget),
        hint=dict(
            type=Hint, pairs=[dict(student='backbone.layer3', teacher='backbone.layer3')])))
_base = dict(batch_size=8, num_workers=0, collate_fn=dict(type=pseudo_collate))
train_dataloader = dict(
    dataset=dict(type=TinyImages), sampler=dict(type=DefaultSampler, shuffle=True), **_base)
val_dataloader = dict(
    dataset=dict(type=TinyImages, seed=1), sampler=dict(type=DefaultSampler, shuffle=False),
    **_base)
test_dataloader = val_dataloader
val_evaluator = dict(type=Accuracy, topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1))
custom_hooks = [dict(type=SaveStudent), dict(type=EvaluateTeachers)]
randomness = dict(seed=1)
"""


@pytest.fixture
def new_style(tmp_path: Path) -> Path:
    """Write a distillation config of classes, its teachers' config and their checkpoint."""
    (tmp_path / 'network.py').write_text(NETWORK)
    checkpoint = tiny.checkpoint(tmp_path)
    filled = STUDENT.replace('NETWORK', str(tmp_path / 'network.py'))
    (tmp_path / 'new_style.py').write_text(filled.replace('CHECKPOINT', checkpoint))
    return tmp_path / 'new_style.py'


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(name: str, *arguments: Any) -> None:
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        runpy.run_path(str(TOOLS / name), run_name='__main__')

    return run


def test_new_style_config_works_in_every_tool(
    new_style: Path, tool: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    train_stages(load_stages([new_style]))
    [stage] = load_stages([new_style])
    assert stage.read_status('finished.json') is not None
    assert stage.sha256 == load_stages([new_style])[0].sha256
    checkpoint = stage.folder / 'epoch_1.pth'
    assert (stage.folder / 'epoch_1_student.pth').exists()
    tool('test.py', new_style, checkpoint)
    assert 'accuracy/top1' in capsys.readouterr().out
    tool('analyze.py', 'cka', new_style, checkpoint, '--images', 8, '--depth', 1)
    for name in ('student', 'file', 'classes'):
        points = tap_points(network_of(str(new_style), name), None)
        assert 'backbone.layer3' in [point.tap for point in points]
    exported = export_student(str(checkpoint), stage.folder / 'student.pth')
    stock = build_network(network_config(str(new_style.with_name('network.py')), 'stock'), 'stock')
    stock.load_state_dict(state_of(exported))


def test_new_style_optimizer_wrapper_becomes_one_of_mixed_precision(new_style: Path) -> None:
    cfg = Config.fromfile(new_style)
    flags = dict(amp=True, auto_scale_lr=False, no_validate=False, cfg_options={})
    edit(cfg, SimpleNamespace(**flags))
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'


CONFIG = """
custom_imports = dict(imports=['helpers.classification'])
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=4, mean=[120.0] * 3, std=[60.0] * 3)
network = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkd_plugin.CifarResNet', depth=8, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels=16, topk=(1,)))
train_dataloader = dict(
    batch_size=8, num_workers=0, dataset=dict(type='TinyImages'),
    sampler=dict(type='DefaultSampler', shuffle=True))
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
"""
TEACHER = CONFIG + 'model = network\n'
DISTILLED = (
    CONFIG
    + """
model = dict(
    type='mmkd_plugin.Distiller', student=network,
    teachers=[dict(
        model=network, checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/a teacher/epoch_1.pth')],
    methods=dict(kd=dict(type='SoftTarget')))
"""
)


@pytest.mark.parametrize(
    ('current', 'root'),
    [
        ('a (folder) & $HOME', 'with spaces, ä and #1'),
        ("it's", None),  # the work root below it is then relative
    ],
)
def test_stages_train_in_awkward_folders(
    current: str, root: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / current
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv(WORK_ROOT_VARIABLE, raising=False)
    if root is not None:
        monkeypatch.setenv(WORK_ROOT_VARIABLE, str(tmp_path / root))
    for name, text in (('a teacher.py', TEACHER), ('a student.py', DISTILLED)):
        (folder / name).write_text(text)
    paths = [folder / 'a teacher.py', folder / 'a student.py']
    train_stages(load_stages(paths))
    hashes = [stage.sha256 for stage in load_stages(paths)]
    assert work_root() == (folder / 'work_dirs' if root is None else tmp_path / root)
    for name, digest in zip(('a teacher', 'a student'), hashes, strict=True):
        noted = json.loads((work_root() / name / 'finished.json').read_text())
        assert noted['config_sha256'] == digest


def test_hash_of_a_config_is_the_same_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    for name in ('plain', 'spaces and ä'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'student.py').write_text(DISTILLED)
        monkeypatch.setenv(WORK_ROOT_VARIABLE, str(tmp_path / name / 'runs'))
        found.add(load_stages([tmp_path / name / 'student.py'])[0].sha256)
    assert len(found) == 1


@pytest.mark.parametrize('name', ["it's", 'a "b"', 'back\\slash', '{0}'])
def test_folder_that_no_config_can_contain_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORK_ROOT_VARIABLE, str(tmp_path / name))
    with raises_config_error(
        WORK_ROOT_VARIABLE, (tmp_path / name).as_posix(), 'characters', fix='another folder'
    ):
        work_root()
    assert os.environ[WORK_ROOT_VARIABLE] == str(tmp_path / name)
