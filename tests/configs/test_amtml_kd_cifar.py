"""AMTML-KD on CIFAR-10 and CIFAR-100: its teachers and student alone, its arms, its schedule."""

from pathlib import Path

import pytest
import torch
from helpers.cifar_files import TRAIN, write_cifar
from helpers.configs import NAMES, build, fresh, read, save
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10, CIFAR100

from mmkd_plugin.loading.build import build_network, network_config

CONFIGS = [name for name in NAMES if '_1xb128-200e_' in name]
PLAIN = [name for name in CONFIGS if name.startswith('baselines/')]
DISTILLED = [name for name in CONFIGS if name not in PLAIN]
DATA = ('cifar10', 'cifar100')


def arms(data: str) -> dict[str, Config]:
    """Return the models of the four distilled students, by the first part of their names."""
    return {
        Path(name).name.partition('_')[0]: fresh(name).model
        for name in DISTILLED
        if name.endswith(f'_{data}')
    }


def small(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return the config on small files: two steps, then validation. Networks keep their depths."""
    cfg = fresh(name)
    write_cifar(CIFAR100 if 'cifar100' in name else CIFAR10, folder / 'data', monkeypatch)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=TRAIN // 2, num_workers=0)
        loader.dataset.update(data_root=str(folder / 'data'), download=False)
    for hook in cfg.get('custom_hooks', []):
        hook.pop('min_score', None)  # the teachers are untrained
    cfg.merge_from_dict(
        dict(work_dir=str(folder / 'run'), train_cfg=dict(max_epochs=1), randomness=dict(seed=0))
    )
    cfg.log_level = 'WARNING'
    for teacher in cfg.model.get('teachers', []):
        network = build_network(network_config(teacher.model, teacher.name), teacher.name)
        save(network, teacher.checkpoint)
    return cfg


def test_the_configs_are_complete() -> None:
    assert (len(PLAIN), len(DISTILLED)) == (8, 8)


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_two_steps_of_training_move_every_parameter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small(name, tmp_path, monkeypatch)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    scalars = runner.message_hub.log_scalars
    assert torch.isfinite(torch.from_numpy(scalars['train/loss'].data[0])).tolist() == [True, True]
    assert 'val/accuracy/top1' in scalars
    assert not [
        name
        for name, parameter in runner.model.named_parameters()
        if not runner.optim_wrapper.optimizer.state[parameter]['momentum_buffer'].any()
    ]
    assert (tmp_path / 'run/epoch_1.pth').is_file()
    if name in DISTILLED:
        assert (tmp_path / 'run/epoch_1_student.pth').is_file()
        scored = runner.model.teacher_scores.isfinite().sum()
        assert scored == len(cfg.model.teachers)  # EvaluateTeachers evaluated each
        assert 'train/task.loss' in scalars


@pytest.mark.parametrize('name', DISTILLED)
def test_the_teachers_are_those_of_the_name(name: str) -> None:
    data = name.rpartition('_')[2]
    depths = (110,) if '/kd_' in name else (32, 56, 110)
    teachers = read(name).model.teachers
    assert [teacher.name for teacher in teachers] == [f'resnet{depth}' for depth in depths]
    assert [Path(teacher.model).stem for teacher in teachers] == [
        f'resnet{depth}_1xb128-200e_{data}' for depth in depths
    ]


@pytest.mark.parametrize('data', DATA)
def test_the_arms_differ_in_nothing_but_what_their_names_say(data: str) -> None:
    models = arms(data)
    soft = dict(type='SoftTarget', temperature=5.0, loss_weight=0.7, ensemble='arithmetic')
    assert models['kd'].methods == models['kd-mean'].methods == dict(kd=soft)
    objectives = {
        name: models[name].methods.amtml.pop('objective') for name in ('amtml-kd', 'amtml-kd-label')
    }
    assert objectives == {'amtml-kd': 'paper', 'amtml-kd-label': 'label'}
    assert models['amtml-kd'] == models['amtml-kd-label']
    for model in models.values():
        assert model.student == read(f'baselines/resnet20_1xb128-200e_{data}').model
        assert model.task_weight == 0.3


@pytest.mark.parametrize('data', DATA)
def test_the_weighting_has_the_students_rate_and_no_decay(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f'amtml_kd/amtml-kd_resnet32-56-110_resnet20_1xb128-200e_{data}'
    cfg = small(name, tmp_path, monkeypatch)
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    for name, parameter in model.named_parameters():
        group = groups[id(parameter)]
        expected = 0.0 if name.endswith(('weighting.factors', 'weighting.direction')) else 5e-4
        assert (group['lr'], group['momentum'], group['weight_decay']) == (0.1, 0.9, expected), name


@pytest.mark.parametrize('name', CONFIGS)
def test_the_schedule_is_that_of_the_paper(name: str) -> None:
    cfg = read(name)
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
    # 0.1 for 100 epochs, 0.01 for 50, 0.001 for 50. ResNet-110 begins with 400 steps at 0.01.
    expected = [
        rate
        for rate, epochs in ((0.1, 100), (0.01, 50), (0.001, 50))
        for _ in range(epochs * iterations_per_epoch)
    ]
    if name.startswith('baselines/resnet110'):
        expected[:400] = [0.01] * 400
    assert rates == pytest.approx(expected)
