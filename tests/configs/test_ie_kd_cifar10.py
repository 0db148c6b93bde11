"""The table of IE-KD on CIFAR-10: four pairs by seven methods, the networks, the paraphrasers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cifar_files import TRAIN, write_cifar
from helpers.configs import (
    FOLDER,
    NAMES,
    build,
    fresh,
    last_checkpoint,
    one_step,
    parameters,
    read,
    save,
)
from mmengine.config import Config
from mmpretrain.datasets import CIFAR10
from mmpretrain.structures import DataSample
from torch import nn

from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.engine.stages import load_stages, train_stages

PARAPHRASER_PARAMETERS = {
    'resnet56': 129_600,
    'wrn-40-1': 129_600,
    'wrn-46-4': 2_066_688,
    'wrn-16-2': 517_248,
}
PAIRS = [
    ('resnet56', 'resnet20'),
    ('wrn-40-1', 'resnet20'),
    ('wrn-46-4', 'vgg13'),
    ('wrn-16-2', 'wrn-16-1'),
]
METHODS = {
    'kd': 'kd',
    'at': 'attention_transfer',
    'ft': 'factor_transfer',
    'od': 'overhaul',
    'ie-at': 'ie_kd',
    'ie-ft': 'ie_kd',
    'ie-od': 'ie_kd',
}


def alone(network: str) -> str:
    return f'baselines/{network}_1xb128-160e_cifar10'


def paraphraser(teacher: str) -> str:
    return f'ie_kd/paraphraser_{teacher}_1xb128-30e_cifar10'


def cell(method: str, pair: tuple[str, str]) -> str:
    return f'{METHODS[method]}/{method}_{"_".join(pair)}_1xb128-160e_cifar10'


PLAIN = sorted({alone(network) for pair in PAIRS for network in pair})
PARAPHRASERS = [paraphraser(teacher) for teacher, _ in PAIRS]
DISTILLED = [cell(method, pair) for pair in PAIRS for method in METHODS]
DISTILLED.append('cwd/cwd_resnet56_resnet20_1xb128-160e_cifar10')  # of another table
CONFIGS = [*PLAIN, *PARAPHRASERS, *DISTILLED]


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save untrained teachers and paraphrasers at the paths that the configs name."""
    root = tmp_path_factory.mktemp('table')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_WORK_DIR', str(root))
        for (teacher, _), name in zip(PAIRS, PARAPHRASERS, strict=True):
            cfg = fresh(name)
            save(build(read(alone(teacher))), cfg.model.teacher.checkpoint)
            save(build(cfg), root / Path(name).name / last_checkpoint(cfg))
    return root


def batch(count: int = 4) -> dict[str, Any]:
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    return dict(
        inputs=list(images),
        data_samples=[DataSample().set_gt_label(index) for index in range(count)],
    )


def test_the_table_is_complete() -> None:
    assert sorted(CONFIGS) == sorted(
        name
        for name in NAMES
        if ('_1xb128-160e_' in name or '_1xb128-30e_' in name)
        and not name.startswith(('cross_modal/', 'shallow_mimic/'))  # they have their own tests
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_one_step_moves_every_parameter(
    name: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MMKD_WORK_DIR', str(checkpoints))
    cfg = fresh(name)
    model = build(cfg)
    if name in DISTILLED:
        assert parameters(model.student) == parameters(build(read(alone(name.split('_')[-3]))))
    if name in PARAPHRASERS:
        assert parameters(model) == PARAPHRASER_PARAMETERS[name.split('_')[-3]]
    _, wrapper = one_step(model, cfg, batch())
    assert all(
        group['nesterov'] and group['weight_decay'] == 5e-4
        for group in wrapper.optimizer.param_groups
    )


@pytest.mark.parametrize('pair', PAIRS, ids='_'.join)
def test_a_row_differs_in_nothing_but_the_method(pair: tuple[str, str]) -> None:
    teacher, student = pair
    plain = read(alone(student))
    for method in METHODS:
        cfg = read(cell(method, pair))
        assert cfg.model.student == plain.model
        for key in (
            'data_preprocessor',
            'train_dataloader',
            'val_dataloader',
            'optim_wrapper',
            'param_scheduler',
        ):
            assert cfg[key] == plain[key], key
        assert cfg.train_cfg == plain.train_cfg
        [one] = cfg.model.teachers
        assert Path(one.model).resolve() == FOLDER / f'{alone(teacher)}.py'
        for compared in next(iter(cfg.model.methods.values())).get('pairs', []):
            assert ('checkpoint' in compared) == method.endswith('ft')
            assert ('norm' in compared) == method.endswith('od')
            if 'checkpoint' in compared:
                assert f'/{Path(paraphraser(teacher)).name}/' in compared.checkpoint
                trained = read(paraphraser(teacher)).model
                assert (trained.tap, trained.teacher.model) == (compared.teacher, one.model)


@pytest.mark.parametrize('method', METHODS)
def test_a_column_is_one_method(method: str) -> None:
    settings = []
    for pair in PAIRS:
        [config] = read(cell(method, pair)).model.methods.values()
        settings.append({key: value for key, value in config.items() if key != 'pairs'})
    assert settings == settings[:1] * len(PAIRS)


def test_settings_are_those_that_were_published() -> None:
    model = read(cell('kd', PAIRS[0])).model
    assert (model.task_weight, model.methods.kd) == (
        0.05,
        dict(type='SoftTarget', temperature=20.0, loss_weight=0.95),
    )
    ie_ft = read(cell('ie-ft', PAIRS[0])).model.methods.ie
    assert (ie_ft.knowledge, ie_ft.inherit_weight, ie_ft.explore_weight) == ('factor', 50.0, 50.0)
    assert read(cell('ft', PAIRS[0])).model.methods.ft.loss_weight == 500.0
    plain, stage1 = read(alone('resnet20')), read(paraphraser('resnet56'))
    assert (plain.train_cfg.max_epochs, plain.param_scheduler.milestones) == (160, [80, 120])
    assert (stage1.train_cfg.max_epochs, stage1.param_scheduler) == (30, None)
    assert plain.optim_wrapper == stage1.optim_wrapper
    assert (plain.optim_wrapper.optimizer.lr, plain.optim_wrapper.optimizer.momentum) == (0.1, 0.9)


@pytest.mark.parametrize('pair', PAIRS, ids='_'.join)
def test_maps_are_those_that_they_are_called(pair: tuple[str, str]) -> None:
    [stages], [factor], [before_relu] = (
        read(cell(method, pair)).model.methods.values() for method in ('at', 'ft', 'od')
    )
    sizes = []
    for side, name in zip(('teacher', 'student'), pair, strict=True):
        network: nn.Module = build(read(alone(name))).eval()
        images = torch.randn(1, 3, 32, 32)
        wanted = [one[side] for method in (stages, factor, before_relu) for one in method.pairs]
        tapped = TappedModel(network, side)
        tapped.request([*wanted, 'backbone'])
        with torch.no_grad(), tapped.recording(images) as recording:
            network(images, mode='tensor')
        seen = recording.output.features
        last = seen[factor.pairs[0][side]]
        unactivated = [seen[one[side]] for one in before_relu.pairs]
        assert torch.equal(last, seen['backbone'])  # the head's input
        assert torch.equal(unactivated[-1].relu(), last)
        assert all(map_.min() < 0 for map_ in unactivated)
        assert [seen[one[side]].shape for one in stages.pairs] == [
            map_.shape for map_ in unactivated
        ]
        sizes.append([map_.shape[-1] for map_ in unactivated])
    assert sizes == [[32, 16, 8], [32, 16, 2 if 'vgg13' in pair else 8]]


@pytest.mark.slow
def test_the_stages_of_a_cell_train_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(CIFAR10, tmp_path / 'data', monkeypatch)

    def shorten(cfg: Config) -> None:
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.update(batch_size=TRAIN // 2, num_workers=0)
            loader.dataset.update(data_root=str(tmp_path / 'data'), download=False)
        for hook in cfg.get('custom_hooks', []):
            hook.pop('min_score', None)  # the teacher is untrained
        cfg.merge_from_dict(
            dict(train_cfg=dict(max_epochs=1), randomness=dict(seed=0), log_level='WARNING')
        )
        for holder in [*cfg.model.get('teachers', []), cfg.model.get('teacher', {})]:
            if 'checkpoint' in holder:
                holder.checkpoint = holder.checkpoint.replace('epoch_160', 'epoch_1')
        if 'methods' in cfg.model:
            [pair] = cfg.model.methods.ie.pairs
            pair.checkpoint = pair.checkpoint.replace('epoch_30', 'epoch_1')

    names = [alone('wrn-16-2'), paraphraser('wrn-16-2'), cell('ie-ft', PAIRS[3])]
    work = tmp_path / 'work'
    train_stages(load_stages([FOLDER / f'{name}.py' for name in names], str(work), shorten))
    folders = [work / Path(name).name for name in names]
    assert [(folder / 'epoch_1.pth').is_file() for folder in folders] == [True] * 3
    student = torch.load(folders[2] / 'epoch_1_student.pth', weights_only=True)['state_dict']
    plain = build(read(alone('wrn-16-1')))
    assert {name: value.shape for name, value in student.items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
