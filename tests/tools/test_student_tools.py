"""test.py, export_student.py and inspect_taps.py, on a distillation run of toy size."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.errors import raises_config_error
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from mmkd_plugin.adapters.inspect_taps import tap_points
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.export import export_student, load_student, student_checkpoint
from mmkd_plugin.loading.student import as_student, network_of

REPOSITORY = Path(__file__).parents[2]
NETWORK = """
def network(depth):
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='mmkd_plugin.CifarResNet', depth=depth, in_channels=1, base_channels=4,
            shortcut='conv'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=16))
"""
CONFIG = (
    NETWORK
    + """
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=10, mean=[8.0], std=[4.0], to_rgb=False)
model = dict(
    type='mmkd_plugin.Distiller', student=network(8),
    teachers=[dict(name='big', model=network(14), checkpoint='nowhere.pth')],
    methods=dict(kd=dict(type='SoftTarget')))
_data = dict(type='mmkd_plugin.Digits', pipeline=[dict(type='PackInputs')])
test_dataloader = dict(
    batch_size=100, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', **_data))
test_evaluator = dict(type='Accuracy', topk=(1,))
test_cfg = dict()
custom_hooks = [dict(type='mmkd_plugin.EvaluateTeachers')]
"""
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / 'distill.py').write_text(CONFIG)
    return tmp_path / 'distill.py'


@pytest.fixture
def checkpoint(config: Path, tmp_path: Path) -> Path:
    """As a distillation run writes it."""
    student = network_of(str(config)).state_dict()
    state = {f'student.{name}': value for name, value in student.items()} | {
        'teacher_scores': torch.zeros(1)
    }
    torch.save(
        {'meta': {'epoch': 3}, 'state_dict': state, 'optimizer': {}}, tmp_path / 'epoch_3.pth'
    )
    return tmp_path / 'epoch_3.pth'


def test_as_student_distillation_config_becomes_its_students(config: Path) -> None:
    cfg = Config.fromfile(config)
    assert as_student(cfg)
    assert cfg.model.type == 'mmpretrain.ImageClassifier'
    assert cfg.model.data_preprocessor.mean == [8.0]
    assert cfg.custom_hooks == []
    assert not as_student(cfg)


def test_export_student_loads_into_the_stock_model_key_by_key(
    config: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = export_student(str(checkpoint), tmp_path / 'out/student.pth')
    stock = build_network(network_config(str(config), 'model'), 'model')
    load_checkpoint(stock, str(out), strict=True)
    trained = torch.load(checkpoint, weights_only=True)['state_dict']
    for name, value in stock.state_dict().items():
        assert torch.equal(value, trained[f'student.{name}'])
    assert torch.load(out, weights_only=True).keys() == {'meta', 'state_dict'}
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['student.pth']


def test_export_student_name_may_end_with_the_hash(checkpoint: Path, tmp_path: Path) -> None:

    out = export_student(str(checkpoint), tmp_path / 'student.pth', hashed=True)
    assert out.name == f'student-{hashlib.sha256(out.read_bytes()).hexdigest()[:8]}.pth'


def test_load_student_takes_both_kinds_of_checkpoint(
    config: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = export_student(str(checkpoint), tmp_path / 'student.pth')
    networks = [network_of(str(config)) for _ in range(2)]
    for network, path in zip(networks, (checkpoint, out), strict=True):
        load_student(network, str(path))
    for first, second in zip(*(network.state_dict().values() for network in networks), strict=True):
        assert torch.equal(first, second)


def test_load_student_checkpoint_of_another_network_is_an_error(
    config: Path, checkpoint: Path
) -> None:
    with raises_config_error('checkpoint', str(checkpoint), 'keys missing', fix='this model'):
        load_student(network_of(str(config), 'big'), str(checkpoint))


def test_network_of_returns_student_or_teacher_by_name(config: Path) -> None:
    assert len(network_of(str(config), 'big').backbone.layer1) == 2
    with raises_config_error('--network', 'small', "'student', 'big'"):
        network_of(str(config), 'small')


def test_tap_points_have_shapes_and_obstacles() -> None:
    config = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(0, 3)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=512),
    )
    model = build_network(network_config(config, 'model'), 'model')
    points = {point.tap: point for point in tap_points(model, (3, 32, 32))}
    assert points['backbone.layer2'].shape == (1, 128, 4, 4)
    assert points['backbone[1]'].shape == (1, 512, 1, 1)
    assert 'backbone' not in points  # two maps: one must be named
    assert points['head'].shape == (1, 10)
    assert 'in place' in points['backbone.bn1'].obstacle  # by ReLU(inplace=True)
    assert points['backbone.layer1.0.relu'].obstacle == 'runs 2 times in a forward'
    assert points['backbone.layer1.0'].obstacle == ''


def run_tool(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, REPOSITORY / 'tools' / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_test_tool_needs_no_teacher(config: Path, checkpoint: Path, tmp_path: Path) -> None:
    told = run_tool(
        'test.py',
        config,
        checkpoint,
        '--work-dir',
        tmp_path / 'w',
        '--out',
        tmp_path / 'predictions.pkl',
    )
    assert 'accuracy/top1' in told
    assert (tmp_path / 'predictions.pkl').exists()


@pytest.mark.slow
def test_tools_export_and_inspect_by_command_line(
    config: Path, checkpoint: Path, tmp_path: Path
) -> None:
    assert 'tensors' in run_tool('export_student.py', checkpoint, tmp_path / 'student.pth')
    table = run_tool(
        'inspect_taps.py', config, '--network', 'big', '--shape', 1, 8, 8, '--depth', 2
    )
    assert 'backbone.layer3' in table
    assert '(1, 16, 2, 2)' in table
    assert 'backbone.layer3.0' not in table


@pytest.fixture
def mutual(tmp_path: Path) -> Path:
    """A config of two peers, of which the second predicts."""
    lines = """
model = dict(
    type='mmkd_plugin.MutualDistiller', predict='deep',
    peers=[dict(name='flat', model=network(8)),
           dict(name='deep', model=network(14), checkpoint='nowhere.pth')],
    methods=dict(dml=dict(type='SoftTarget', temperature=1.0)))
"""
    (tmp_path / 'mutual.py').write_text(
        CONFIG.partition('model = dict(')[0]
        + lines
        + CONFIG.partition("kd=dict(type='SoftTarget')))")[2]
    )
    return tmp_path / 'mutual.py'


@pytest.fixture(params=['peers.{}.network.', 'peer_{}.'])
def peers_checkpoint(mutual: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """As a run of mutual learning writes it, in this edition and in the first."""
    networks = {name: network_of(str(mutual), name).state_dict() for name in ('flat', 'deep')}
    state = {
        f'{request.param.format(name)}{key}': value
        for name, own in networks.items()
        for key, value in own.items()
    }
    torch.save(
        {'meta': {'epoch': 3}, 'state_dict': state, 'optimizer': {}}, tmp_path / 'epoch_3.pth'
    )
    return tmp_path / 'epoch_3.pth'


def test_as_student_config_of_peers_becomes_one_or_stays(mutual: Path) -> None:
    cfg = Config.fromfile(mutual)
    assert as_student(cfg, 'flat')
    assert (cfg.model.type, cfg.model.backbone.depth, cfg.model.data_preprocessor.mean) == (
        'mmpretrain.ImageClassifier', 8, [8.0],
    )  # fmt: skip
    cfg = Config.fromfile(mutual)
    assert as_student(cfg)
    assert cfg.test_cfg.type == 'mmkd_plugin.PeerTestLoop' and cfg.custom_hooks == []
    assert [peer.checkpoint for peer in cfg.model.peers] == [None, None], (
        'where they began is of no concern'
    )
    with raises_config_error('--network', 'student', "'flat', 'deep'"):
        as_student(Config.fromfile(mutual), 'student')


def test_network_of_returns_peers_by_name(mutual: Path) -> None:
    assert [
        len(network_of(str(mutual), name).backbone.layer1) for name in ('flat', 'deep', 'student')
    ] == [1, 2, 2]
    with raises_config_error('--network', 'small', "'flat', 'deep'"):
        network_of(str(mutual), 'small')


def test_network_of_config_of_peers_is_the_one_that_predicts(mutual: Path) -> None:
    assert network_config(str(mutual), 'teacher').backbone.depth == 14
    assert network_config(str(mutual), 'teacher', {'model.predict': 'flat'}).backbone.depth == 8
    with raises_config_error('teacher.predict', 'ensemble', "'flat', 'deep'"):
        network_config(str(mutual), 'teacher', {'model.predict': 'ensemble'})


def test_export_student_peer_loads_into_the_stock_model(
    mutual: Path, peers_checkpoint: Path, tmp_path: Path
) -> None:
    out = export_student(str(peers_checkpoint), tmp_path / 'deep.pth', name='deep')
    trained = student_checkpoint(torch.load(peers_checkpoint, weights_only=True), 'deep')
    for path, name in ((out, None), (peers_checkpoint, 'deep')):
        stock = network_of(str(mutual), 'deep')
        load_student(stock, str(path), name)
        assert all(
            torch.equal(value, trained['state_dict'][key])
            for key, value in stock.state_dict().items()
        )
    for name in (None, 'deeper'):
        with raises_config_error('--network', name, "'flat', 'deep'"):
            export_student(str(peers_checkpoint), tmp_path / 'deep.pth', name=name)


@pytest.mark.slow
def test_test_tool_evaluates_all_peers_or_one(
    mutual: Path, peers_checkpoint: Path, tmp_path: Path
) -> None:
    predictions = tmp_path / 'predictions.pkl'
    told = run_tool(
        'test.py', mutual, peers_checkpoint, '--work-dir', tmp_path / 'w', '--out', predictions
    )
    assert all(f'{name}/accuracy/top1' in told for name in ('flat', 'deep', 'mean', 'ensemble'))
    assert predictions.exists()
    out = export_student(str(peers_checkpoint), tmp_path / 'flat.pth', name='flat')
    alone = run_tool('test.py', mutual, out, '--network', 'flat', '--work-dir', tmp_path / 'v')
    score = re.search(r'flat/accuracy/top1: ([\d.]+)', told)
    assert score and f' accuracy/top1: {score[1]}' in alone
