"""A model zoo of tiny networks on scikit-learn's digits: its configs and checkpoints."""

from pathlib import Path

import torch
from experiments.model_zoo.add import Choices, add
from experiments.model_zoo.index import Zoo

from mmkd_plugin.loading.student import network_of

PLAIN = """
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=10, mean=[8.0], std=[4.0], to_rgb=False)
network = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmkd_plugin.CifarResNet', depth=8, in_channels=1, base_channels=4, shortcut='conv'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16))
model = network
test_dataloader = dict(
    batch_size=100, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmkd_plugin.Digits', split='test', pipeline=[dict(type='PackInputs')]))
test_evaluator = dict(type='Accuracy', topk=(1,))
test_cfg = dict()
"""
DISTILLED = """
_base_ = 'plain.py'
model = dict(
    _delete_=True, type='mmkd_plugin.Distiller', student=_base_.network,
    teachers=[dict(name='big', model=_base_.network, checkpoint='nowhere.pth')],
    methods=dict(kd=dict(type='SoftTarget')))
"""
LICENCE = dict(task='Image Classification', licence='CC BY 4.0', licence_source='https://uci.edu')
COMMAND = 'python tools/train.py configs/toy/plain.py configs/toy/distilled.py'
STUDENT = Choices(test_config='configs/toy/plain.py', command=COMMAND, **LICENCE)


def trained(config: Path, prefix: str = '', seed: int = 0) -> Path:
    """Write a checkpoint as a Runner does, with the optimizer."""
    torch.manual_seed(seed)
    state = network_of(str(config)).state_dict()
    path = config.with_name(f'{prefix}epoch_{seed}.pth')
    torch.save(
        dict(
            meta=dict(epoch=2, seed=seed, cfg='…'),
            state_dict={f'{prefix}{key}': value for key, value in state.items()},
            optimizer=dict(lr=0.1),
        ),
        path,
    )
    return path


def make_zoo(root: Path) -> Zoo:
    """Make a zoo of one plain network and one student; the current folder must be ``root``."""
    toy = root / 'configs/toy'
    toy.mkdir(parents=True)
    (toy / 'plain.py').write_text(PLAIN)
    (toy / 'distilled.py').write_text(DISTILLED)
    zoo = Zoo(root / 'configs/model_zoo')
    zoo.folder.mkdir()
    zoo.readme.write_text('# Zoo\n\n<!-- begin: python tools/model_zoo.py add -->\n<!-- end -->\n')
    add(zoo, 'configs/toy/plain.py', str(trained(toy / 'plain.py')), Choices(**LICENCE))
    student = trained(toy / 'distilled.py', 'student.', seed=1)
    add(zoo, 'configs/toy/distilled.py', str(student), STUDENT)
    return zoo


def content(zoo: Zoo) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in zoo.folder.iterdir()}
