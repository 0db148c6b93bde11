"""tools/test.py --tta: the student of a distillation config, on several views of each image."""

import pickle
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from mmengine.config import Config

from mmkd_plugin.engine.evaluate import merge_views
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.student import as_student

TOOL = Path(__file__).parents[2] / 'tools/test.py'
CONFIG = """
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=10, mean=[8.0], std=[4.0], to_rgb=False)
network = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkd_plugin.CifarResNet', depth=8, in_channels=1, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16))
model = dict(
    type='mmkd_plugin.Distiller', student=network,
    teachers=[dict(name='big', model=network, checkpoint='nowhere.pth')],
    methods=dict(kd=dict(type='SoftTarget')))
test_dataloader = dict(
    batch_size=100, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmkd_plugin.Digits', split='test', pipeline=[dict(type='PackInputs')]))
test_evaluator = dict(type='Accuracy', topk=(1,))
test_cfg = dict()
"""
VIEWS = """
tta_model = dict(type='AverageClsScoreTTA')
tta_pipeline = [dict(type='TestTimeAug', transforms=[
    [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
    [dict(type='PackInputs')]])]
"""


def test_tta_averages_the_scores_of_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = tmp_path / 'distill.py', tmp_path / 'found.pkl'
    config.write_text(CONFIG + VIEWS)
    cfg = Config.fromfile(config)
    as_student(cfg)
    student = build_network(network_config(dict(cfg.model), 'student'), 'student').eval()
    torch.save(dict(state_dict=student.state_dict()), tmp_path / 'student.pth')
    arguments = [config, tmp_path / 'student.pth', '--tta', '--out', out]
    monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')
    found = torch.stack([sample['pred_score'] for sample in pickle.loads(out.read_bytes())])
    images = _images(cfg)
    with torch.no_grad():
        views = [student(one).softmax(dim=1) for one in (images.flip(-1), images)]
    torch.testing.assert_close(found.cpu(), sum(views) / 2, atol=1e-5, rtol=1e-4)


def _images(cfg: Any) -> torch.Tensor:
    from mmengine.registry import DATASETS, DefaultScope

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        data = DATASETS.build(cfg.test_dataloader.dataset)
    return (torch.stack([data[index]['inputs'] for index in range(len(data))]).float() - 8) / 4


def test_tta_without_views_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'distill.py').write_text(CONFIG)
    cfg = Config.fromfile(tmp_path / 'distill.py')
    with raises_config_error('tta_model', fix='--tta'):
        merge_views(cfg)
