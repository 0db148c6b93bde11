"""Test checkpoints by the function of tools/test.py."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmkd_plugin.engine.evaluate import evaluate_checkpoint
from mmkd_plugin.loading.build import build_network, network_config

pytest.importorskip('mmpretrain')

NETWORK = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkd_plugin.CifarResNet', depth=8, in_channels=1, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16),
)
DISTILLER = dict(
    type='mmkd_plugin.Distiller',
    student=NETWORK,
    teachers=[dict(name='big', model=NETWORK, checkpoint='nowhere.pth')],
    methods=dict(kd=dict(type='SoftTarget')),
)


@pytest.mark.parametrize(
    ('model', 'prefix'),
    [(NETWORK, ''), (DISTILLER, ''), (DISTILLER, 'student.')],
    ids=['plain network', 'exported student', 'run'],
)
def test_evaluate_checkpoint_returns_the_accuracy_of_the_weights(
    tmp_path: Path, model: dict, prefix: str
) -> None:
    """A network whose bias alone decides predicts one class: 45 of the 447 images are ones."""
    state = build_network(network_config(NETWORK, 'model'), 'model').state_dict()
    state['head.fc.bias'] += 1e6 * (torch.arange(10) == 1)
    torch.save(
        dict(state_dict={f'{prefix}{key}': value for key, value in state.items()}),
        tmp_path / 'last.pth',
    )
    data = dict(type='mmkd_plugin.Digits', split='test', pipeline=[dict(type='PackInputs')])
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(tmp_path),
            data_preprocessor=dict(num_classes=10, mean=[8.0], std=[4.0], to_rgb=False),
            model=model,
            test_dataloader=dict(
                batch_size=200,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=data,
            ),
            test_evaluator=dict(type='Accuracy', topk=(1,)),
            test_cfg=dict(),
        )
    )
    metrics = evaluate_checkpoint(cfg, str(tmp_path / 'last.pth'))
    assert metrics == {'accuracy/top1': pytest.approx(100 * 45 / 447)}
