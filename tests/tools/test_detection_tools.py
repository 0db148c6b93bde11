"""train.py, test.py, export_student.py and inspect_taps.py on a stock detector with a teacher."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import coco_files
from helpers import detection as small

from mmkd_plugin.loading.build import build_network
from mmkd_plugin.loading.checkpoint import load_weights

REPOSITORY = Path(__file__).parents[2]
CONFIG = """
_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
small = {small}
model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    cfg_options=small,
    teachers=[dict(
        name='one', model='mmdet::gfl/gfl_r50_fpn_1x_coco.py', cfg_options=small,
        checkpoint='{teacher}')],
    methods=dict(
        kd=dict(type='SoftTarget'),
        ie=dict(type='IEKD', knowledge='attention', reduction='size_invariant',
                pairs=[dict(student='neck[0]', teacher='neck[0]')])))
_loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=dict(_delete_=True, **{train}), **_loader)
val_dataloader = dict(dataset=dict(_delete_=True, **{val}), **_loader)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{annotations}')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
custom_hooks = [dict(type='mmkd_plugin.EvaluateTeachers'), dict(type='mmkd_plugin.SaveStudent')]
"""


def run_tool(name: str, *arguments: object) -> str:
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', str(REPOSITORY / 'tools' / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_tools_distil_test_export_and_inspect_a_stock_detector(tmp_path: Path) -> None:
    options = {**small.FAMILIES['gfl'][1], 'model.test_cfg.score_thr': 0.001}
    detector = small.detector('gfl', test_cfg__score_thr=0.001)
    coco_files.write(tmp_path)
    config = tmp_path / 'distil.py'
    config.write_text(
        CONFIG.format(
            small=options,
            teacher=small.checkpoint(tmp_path, detector, 1),
            train=coco_files.dataset(tmp_path),
            val=coco_files.dataset(tmp_path, training=False),
            annotations=tmp_path / 'annotations.json',
        )
    )
    trained = run_tool('train.py', config, '--work-dir', tmp_path / 'run')
    assert 'Teachers, best first, coco/bbox_mAP' in trained and 'coco/bbox_mAP: ' in trained
    [checkpoint] = (tmp_path / 'run').rglob('epoch_1.pth')
    tested = run_tool('test.py', config, checkpoint, '--work-dir', tmp_path / 'test')
    assert 'coco/bbox_mAP: ' in tested and 'Evaluating the teacher' not in tested
    run_tool('export_student.py', checkpoint, tmp_path / 'student.pth')
    loaded = load_weights(
        build_network(detector, 'student'), str(tmp_path / 'student.pth'), 'student'
    )
    assert loaded.classes == coco_files.CLASSES
    taps = run_tool('inspect_taps.py', config, '--shape', 3, 96, 96)
    assert 'neck[0]' in taps and 'bbox_head[0][4]' in taps
