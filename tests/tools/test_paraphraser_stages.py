"""IE-KD's stages in a row, and test.py on the paraphraser between them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import classification as tiny  # noqa: F401  it imports the host, whose warnings are not ours
from helpers.checkpoints import state_of

from mmkd_plugin.engine.stages import load_stages, train_stages, work_root

REPOSITORY = Path(__file__).parents[2]
COMMON = """
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=10, mean=[8.0], std=[4.0], to_rgb=False)
def network(depth):
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='mmkd_plugin.CifarResNet', depth=depth, in_channels=1, base_channels=4,
            shortcut='conv'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=16))
_data = dict(type='mmkd_plugin.Digits', pipeline=[dict(type='PackInputs')])
_loader = dict(batch_size=100, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader = dict(dataset=dict(split='train', **_data), **_loader)
val_dataloader = test_dataloader = dict(dataset=dict(split='test', **_data), **_loader)
val_evaluator = test_evaluator = dict(type='Accuracy', topk=(1,))
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=1)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
randomness = dict(seed=7)
ROOT = '{{$MMKD_WORK_DIR:work_dirs}}'
taught = dict(name='big', model=network(14), checkpoint=ROOT + '/teacher/epoch_1.pth')
tap = 'backbone.layer3'
"""
STAGES = dict(
    teacher='model = network(14)',
    paraphraser="model = dict(type='mmkd_plugin.ParaphraserTrainer', teacher=taught, tap=tap)",
    ie_kd="""model = dict(
    type='mmkd_plugin.Distiller', student=network(8), teachers=[taught],
    methods=dict(ie=dict(type='IEKD', pairs=[
        dict(student=tap, teacher=tap, checkpoint=ROOT + '/paraphraser/epoch_1.pth')])))""",
)


def accuracy(log: str) -> float:
    """The last that was measured."""
    return float(log.rpartition('accuracy/top1: ')[2].split()[0])


@pytest.mark.slow
def test_train_stages_teacher_paraphraser_student_in_a_row(tmp_path: Path) -> None:
    paths = [tmp_path / f'{name}.py' for name in STAGES]
    for path, model in zip(paths, STAGES.values(), strict=True):
        path.write_text(f'{COMMON}\n{model}\n')
    train_stages(load_stages(paths))
    root = work_root()
    states = {name: state_of(root / name / 'epoch_1.pth') for name in ('paraphraser', 'ie_kd')}
    inner = 'encoder.layers.0.weight'
    kept = [value for name, value in states['ie_kd'].items() if name.endswith(f'trained.0.{inner}')]
    assert [
        torch.equal(value, states['paraphraser'][f'paraphraser.{inner}']) for value in kept
    ] == [True]

    tested = subprocess.run(
        [
            sys.executable,
            REPOSITORY / 'tools/test.py',
            paths[1],
            root / 'paraphraser/epoch_1.pth',
            '--work-dir',
            tmp_path,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
    )
    assert tested.returncode == 0, tested.stderr
    lines = next((root / 'paraphraser').rglob('scalars.json')).read_text().splitlines()
    (validated,) = [
        line['accuracy/top1'] for line in map(json.loads, lines) if 'accuracy/top1' in line
    ]
    assert accuracy(tested.stdout) == pytest.approx(validated, abs=1e-3)
