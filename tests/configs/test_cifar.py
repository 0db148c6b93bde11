from pathlib import Path

import pytest
import torch
from helpers.cifar_files import TRAIN, write_cifar
from helpers.index_entry import index_entry
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10, CIFAR100

from mmkd_plugin.loading.build import build_network, network_config

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / 'configs/classification/cifar10', ROOT / 'configs/classification/cifar100']
CONFIGS = sorted(path for folder in FOLDERS for path in folder.glob('*.py'))
PLAIN = [path for path in CONFIGS if path.stem.startswith('resnet')]
DISTILLED = [path for path in CONFIGS if path not in PLAIN]


def stem(path: Path) -> str:
    return path.stem


def teacher_checkpoints(cfg: Config) -> None:
    """Put an untrained network of the right kind where each teacher's checkpoint belongs."""
    for teacher in cfg.model.get('teachers', []):
        network = build_network(network_config(teacher.model, teacher.name), teacher.name)
        Path(teacher.checkpoint).parent.mkdir(parents=True)
        torch.save(dict(state_dict=network.state_dict()), teacher.checkpoint)


def small(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The config on small files: two steps, then validation; networks keep their true depths."""
    cfg = Config.fromfile(path)
    write_cifar(CIFAR100 if 'cifar100' in path.stem else CIFAR10, folder / 'data', monkeypatch)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=TRAIN // 2, num_workers=0)
        loader.dataset.update(data_root=str(folder / 'data'), download=False)
    for hook in cfg.get('custom_hooks', []):
        hook.pop('min_score', None)  # the teachers know nothing
    cfg.merge_from_dict(
        dict(work_dir=str(folder / 'run'), train_cfg=dict(max_epochs=1), randomness=dict(seed=0))
    )
    cfg.log_level = 'WARNING'
    teacher_checkpoints(cfg)
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=stem)
def test_two_steps_of_training(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small(path, tmp_path, monkeypatch)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    scalars = runner.message_hub.log_scalars
    assert torch.isfinite(torch.from_numpy(scalars['train/loss'].data[0])).tolist() == [True, True]
    assert 'val/accuracy/top1' in scalars
    still = [
        name
        for name, parameter in runner.model.named_parameters()
        if not runner.optim_wrapper.optimizer.state[parameter]['momentum_buffer'].any()
    ]
    assert not still, 'every parameter learns'
    assert (tmp_path / 'run/epoch_1.pth').is_file()
    if path in DISTILLED:
        assert (tmp_path / 'run/epoch_1_student.pth').is_file()
        assert runner.model.teacher_scores.isfinite().sum() == len(cfg.model.teachers), (
            'each was evaluated'
        )
        assert 'train/task.loss' in scalars


@pytest.mark.parametrize('path', CONFIGS, ids=stem)
def test_small_and_in_the_index(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
    cfg = Config.fromfile(path)
    metadata = index_entry(path, cfg).metadata
    student = cfg.model.get('student', cfg.model)
    counted = sum(
        p.numel() for p in build_network(network_config(student, 'student'), 'student').parameters()
    )
    assert counted == metadata.parameters
    assert metadata.data['Batch Size'] == cfg.train_dataloader.batch_size


@pytest.mark.parametrize('path', DISTILLED, ids=stem)
def test_teachers_are_those_of_the_folder(path: Path) -> None:
    cfg = Config.fromfile(path)
    dataset = path.stem.rpartition('_')[2]
    depths = (110,) if path.stem.startswith('kd_resnet') else (32, 56, 110)
    assert [teacher.name for teacher in cfg.model.teachers] == [
        f'resnet{depth}' for depth in depths
    ]
    for teacher, depth in zip(cfg.model.teachers, depths, strict=True):
        plain = path.with_name(f'resnet{depth}_{dataset}.py')
        assert Path(teacher.model) == plain
        last = Config.fromfile(plain).train_cfg.max_epochs
        assert teacher.checkpoint.endswith(f'work_dirs/{plain.stem}/epoch_{last}.pth')


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_arms_are_what_they_are_called(folder: Path) -> None:
    arms = {
        path.stem.rpartition('_resnet20')[0]: Config.fromfile(path).model
        for path in folder.glob('*_resnet20_*.py')
    }
    assert {name: arm.methods for name, arm in arms.items() if name.startswith('kd')} == {
        name: dict(
            kd=dict(type='SoftTarget', temperature=5.0, loss_weight=0.7, ensemble='arithmetic')
        )
        for name in ('kd', 'kd_mean')
    }
    assert {
        name: arms[name].methods.amtml.pop('objective') for name in ('amtml', 'amtml_label')
    } == dict(amtml='paper', amtml_label='label')
    assert arms['amtml'] == arms['amtml_label']


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_teacher_weights_are_learned_at_the_students_rate_without_decay(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small(folder / f'amtml_resnet20_{folder.name}.py', tmp_path, monkeypatch)
    model = MODELS.build(
        {**cfg.model, 'data_preprocessor': cfg.data_preprocessor, '_scope_': 'mmpretrain'}
    )
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    for name, parameter in model.named_parameters():
        group = groups[id(parameter)]
        expected = 0.0 if name.endswith(('weighting.factors', 'weighting.direction')) else 5e-4
        assert (group['lr'], group['momentum'], group['weight_decay']) == (0.1, 0.9, expected), name


@pytest.mark.parametrize('path', CONFIGS, ids=stem)
def test_schedule(path: Path) -> None:
    cfg = Config.fromfile(path)
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr
    )
    schedulers = (
        cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    )
    rates = []
    iterations_per_epoch = 10  # few: the warm-up is counted in steps, the rest in epochs
    built = [
        PARAM_SCHEDULERS.build({**s, '_scope_': 'mmengine'}, default_args=dict(optimizer=optimizer))
        for s in schedulers
    ]
    optimizer.step()
    for _ in range(cfg.train_cfg.max_epochs):
        for _ in range(iterations_per_epoch):
            rates.append(optimizer.param_groups[0]['lr'])
            for scheduler in built:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in built:
            if scheduler.by_epoch:
                scheduler.step()
    # The optimizer's rate is 0.1 for 100 epochs, 0.01 for 50, 0.001 for 50; ResNet-110 starts with 400 steps at 0.01.
    expected = [
        rate
        for rate, epochs in ((0.1, 100), (0.01, 50), (0.001, 50))
        for _ in range(epochs * iterations_per_epoch)
    ]
    if path.stem.startswith('resnet110'):
        expected[:400] = [0.01] * 400
    assert rates == pytest.approx(expected)
