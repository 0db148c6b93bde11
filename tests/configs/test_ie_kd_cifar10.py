"""The table of IE-KD on CIFAR-10: four pairs by seven methods, the networks alone, the paraphrasers."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cifar_files import TRAIN, write_cifar
from helpers.index_entry import index_entry
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmpretrain.datasets import CIFAR10
from mmpretrain.structures import DataSample
from torch import nn

from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.engine.stages import load_stages, train_stages

FOLDER = Path(__file__).parents[2] / 'configs/classification/ie_kd_cifar10'
CONFIGS = sorted(FOLDER.glob('*.py'))
PAIRS = [
    ('resnet56', 'resnet20'),
    ('wrn40_1', 'resnet20'),
    ('wrn46_4', 'vgg13'),
    ('wrn16_2', 'wrn16_1'),
]
METHODS = ['kd', 'at', 'ft', 'od', 'ie_at', 'ie_ft', 'ie_od']
PLAIN = sorted({FOLDER / f'{network}_160e_cifar10.py' for pair in PAIRS for network in pair})
PARAPHRASERS = [FOLDER / f'paraphraser_{teacher}_cifar10.py' for teacher, _ in PAIRS]
DISTILLED = [
    FOLDER / f'{method}_{teacher}_{student}_cifar10.py'
    for teacher, student in PAIRS
    for method in METHODS
]


def stem(path: Path) -> str:
    return path.stem


@cache
def read(name: str) -> Config:
    """A config that is only looked at; reading one takes half a second."""
    return Config.fromfile(FOLDER / f'{name}_cifar10.py')


def cell(method: str, pair: tuple[str, str]) -> Config:
    return read('_'.join([method, *pair]))


def built(cfg: Config) -> Any:
    return MODELS.build(
        {**cfg.model, 'data_preprocessor': cfg.data_preprocessor, '_scope_': 'mmpretrain'}
    )


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers and paraphrasers that learned nothing, where the configs look for them."""
    root = tmp_path_factory.mktemp('table')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_WORK_DIR', str(root))
        for path in PARAPHRASERS:
            cfg = Config.fromfile(path)
            teacher = Path(cfg.model.teacher.checkpoint)
            teacher.parent.mkdir()
            torch.save(
                dict(state_dict=built(read(f'{cfg.model.teacher.name}_160e')).state_dict()), teacher
            )
            (root / path.stem).mkdir()
            torch.save(dict(state_dict=built(cfg).state_dict()), root / path.stem / 'epoch_30.pth')
    return root


def batch(count: int = 4) -> dict[str, Any]:
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    return dict(
        inputs=list(images),
        data_samples=[DataSample().set_gt_label(index) for index in range(count)],
    )


def test_nothing_is_missing_and_nothing_is_too_much() -> None:
    assert sorted([*PLAIN, *PARAPHRASERS, *DISTILLED]) == CONFIGS


@pytest.mark.parametrize('path', sorted(FOLDER.rglob('*.py')), ids=stem)
def test_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= (40 if path.parent.name == '_base_' else 6)


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=stem)
def test_built_and_one_step(path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MMKD_WORK_DIR', str(checkpoints))
    cfg = Config.fromfile(path)
    model = built(cfg)
    own = model.student if path in DISTILLED else model
    metadata = index_entry(path, cfg).metadata
    assert metadata.parameters == sum(p.numel() for p in own.parameters())
    assert metadata.data['Batch Size'] == cfg.train_dataloader.batch_size
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    losses = model(**model.train().data_preprocessor(batch(), True), mode='loss')
    total, logged = model.parse_losses(losses)
    assert all(value.isfinite() for value in logged.values())
    wrapper.backward(total)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert learning and not [
        name for name, p in learning.items() if p.grad is None or not p.grad.any()
    ]
    before = {name: p.detach().clone() for name, p in learning.items()}
    wrapper.step()
    assert not [name for name, p in learning.items() if torch.equal(p, before[name])], (
        'every parameter learns'
    )
    assert all(
        group['nesterov'] and group['weight_decay'] == 5e-4
        for group in wrapper.optimizer.param_groups
    )


@pytest.mark.parametrize('pair', PAIRS, ids='_'.join)
def test_a_row_differs_in_nothing_but_the_method(pair: tuple[str, str]) -> None:
    teacher, student = pair
    alone = read(f'{student}_160e')
    for method in METHODS:
        cfg = cell(method, pair)
        assert cfg.model.student == alone.model
        for key in (
            'data_preprocessor',
            'train_dataloader',
            'val_dataloader',
            'optim_wrapper',
            'param_scheduler',
        ):
            assert cfg[key] == alone[key], key
        assert cfg.train_cfg == alone.train_cfg
        [one] = cfg.model.teachers
        assert Path(one.model).resolve() == FOLDER / f'{teacher}_160e_cifar10.py'
        assert one.checkpoint.endswith(
            f'work_dirs/{teacher}_160e_cifar10/epoch_{alone.train_cfg.max_epochs}.pth'
        )
        for compared in next(iter(cfg.model.methods.values())).get('pairs', []):
            assert ('checkpoint' in compared) == method.endswith('ft') and (
                'norm' in compared
            ) == method.endswith('od')
            if 'checkpoint' in compared:
                assert compared.checkpoint.endswith(
                    f'work_dirs/paraphraser_{teacher}_cifar10/epoch_30.pth'
                )
                paraphraser = read(f'paraphraser_{teacher}')
                assert (paraphraser.model.teacher, paraphraser.model.tap) == (one, compared.teacher)


@pytest.mark.parametrize('method', METHODS)
def test_a_column_is_one_method(method: str) -> None:
    settings = []
    for pair in PAIRS:
        [config] = cell(method, pair).model.methods.values()
        settings.append({key: value for key, value in config.items() if key != 'pairs'})
    assert settings == settings[:1] * len(PAIRS)


def test_settings_that_were_published() -> None:
    model = cell('kd', PAIRS[0]).model
    assert (model.task_weight, model.methods.kd) == (
        0.05,
        dict(type='SoftTarget', temperature=20.0, loss_weight=0.95),
    )
    ie_ft = cell('ie_ft', PAIRS[0]).model.methods.ie
    assert (ie_ft.knowledge, ie_ft.inherit_weight, ie_ft.explore_weight) == ('factor', 50.0, 50.0)
    assert cell('ft', PAIRS[0]).model.methods.ft.loss_weight == 500.0
    alone, paraphraser = read('resnet20_160e'), read('paraphraser_resnet56')
    assert (alone.train_cfg.max_epochs, alone.param_scheduler.milestones) == (160, [80, 120])
    assert (paraphraser.train_cfg.max_epochs, paraphraser.param_scheduler) == (30, None)
    assert alone.optim_wrapper == paraphraser.optim_wrapper
    assert (alone.optim_wrapper.optimizer.lr, alone.optim_wrapper.optimizer.momentum) == (0.1, 0.9)


@pytest.mark.parametrize('pair', PAIRS, ids='_'.join)
def test_maps_are_those_that_they_are_called(pair: tuple[str, str]) -> None:
    [stages], [factor], [before_relu] = (
        cell(method, pair).model.methods.values() for method in ('at', 'ft', 'od')
    )
    sizes = []
    for side, name in zip(('teacher', 'student'), pair, strict=True):
        network: nn.Module = built(read(f'{name}_160e')).eval()
        wanted = [one[side] for method in (stages, factor, before_relu) for one in method.pairs]
        taps = FeatureTaps(network, [*wanted, 'backbone'])
        with torch.no_grad(), taps.record(network) as seen:
            network(torch.randn(1, 3, 32, 32), mode='tensor')
        last, unactivated = (
            seen[factor.pairs[0][side]],
            [seen[one[side]] for one in before_relu.pairs],
        )
        assert torch.equal(last, seen['backbone']), 'what the head reads'
        assert torch.equal(unactivated[-1].relu(), last) and all(
            map_.min() < 0 for map_ in unactivated
        )
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
            hook.pop('min_score', None)  # the teacher knows nothing
        cfg.merge_from_dict(
            dict(train_cfg=dict(max_epochs=1), randomness=dict(seed=0), log_level='WARNING')
        )
        for holder in [*cfg.model.get('teachers', []), cfg.model.get('teacher', {})]:
            if 'checkpoint' in holder:
                holder.checkpoint = holder.checkpoint.replace('epoch_160', 'epoch_1')
        if 'methods' in cfg.model:
            [pair] = cfg.model.methods.ie.pairs
            pair.checkpoint = pair.checkpoint.replace('epoch_30', 'epoch_1')

    names = ['wrn16_2_160e_cifar10', 'paraphraser_wrn16_2_cifar10', 'ie_ft_wrn16_2_wrn16_1_cifar10']
    train_stages(
        load_stages([FOLDER / f'{name}.py' for name in names], str(tmp_path / 'work'), shorten)
    )
    assert [(tmp_path / 'work' / name / 'epoch_1.pth').is_file() for name in names] == [True] * 3
    student = torch.load(tmp_path / 'work' / names[2] / 'epoch_1_student.pth', weights_only=True)[
        'state_dict'
    ]
    fresh = built(read('wrn16_1_160e'))
    assert {name: value.shape for name, value in student.items()} == {
        name: value.shape for name, value in fresh.state_dict().items()
    }
