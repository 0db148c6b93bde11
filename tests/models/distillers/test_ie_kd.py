"""IE-KD, factor and attention transfer, and overhaul in a distiller and in real runs."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import processes
from helpers.errors import ANY, raises_config_error
from mmengine.logging import MessageHub
from mmengine.registry import MODELS as ROOT_MODELS

TAP = 'backbone.layer3'
CHECKPOINT = 'methods.ie.pairs[0].checkpoint'
BEFORE_RELU = dict(
    student=f'{TAP}.0.relu2:input', teacher=f'{TAP}.0.relu2:input', norm=f'{TAP}.0.bn2'
)


def paraphraser(folder: Path, teacher: dict[str, Any], tap: str = TAP, **options: Any) -> str:
    """Write a checkpoint of stage 1, without its training."""
    trainer = ROOT_MODELS.build(
        dict(
            type='mmkd_plugin.ParaphraserTrainer',
            teacher=teacher,
            tap=tap,
            paraphraser=options or None,
            data_preprocessor=tiny.preprocessor(),
        )
    )
    path = folder / f'paraphraser_{tap}_{len(list(folder.iterdir()))}.pth'
    torch.save(dict(state_dict=trainer.state_dict()), path)
    return str(path)


def methods(folder: Path, teacher: dict[str, Any]) -> dict[str, dict[str, Any]]:
    maps = dict(student=TAP, teacher=TAP)
    factors = dict(maps, checkpoint=paraphraser(folder, teacher))
    return dict(
        ie_ft=dict(type='IEKD', pairs=[factors]),
        ie_at=dict(type='IEKD', pairs=[maps], knowledge='attention'),
        ie_od=dict(type='IEKD', pairs=[BEFORE_RELU], knowledge='overhaul'),
        ft=dict(type='FactorTransfer', pairs=[factors]),
        at=dict(type='AttentionTransfer', pairs=[maps]),
        od=dict(type='Overhaul', pairs=[BEFORE_RELU]),
    )


def one_teacher(folder: Path) -> list[dict[str, Any]]:
    return tiny.teachers(folder, 1)


def test_run_of_all_methods_together_trains_and_resumes_to_the_bit(
    tmp_path: Path,
) -> None:
    teachers = one_teacher(tmp_path)
    every = dict(kd=dict(type='SoftTarget'), **methods(tmp_path, teachers[0]))
    config = tiny.distiller_config(tmp_path, teachers=teachers, methods=every)
    unbroken = tiny.runner(config, tmp_path / 'one', iters=4)
    before = tiny.weights_of(unbroken.model)
    unbroken.train()
    logged = MessageHub.get_current_instance().log_scalars
    metrics = (
        'loss_inherit',
        'loss_explore',
        'inherit_cosine',
        'explore_cosine',
        'cka',
        'explore_gradient',
    )
    assert {
        f'train/{name}.{metric}' for name in ('ie_ft', 'ie_at', 'ie_od') for metric in metrics
    } <= logged.keys()
    assert all(math.isfinite(logged[name].current()) for name in logged)
    assert logged['train/ie_ft.explore_gradient'].current() > 0
    after = unbroken.model.state_dict()
    assert before.keys() == after.keys()
    still = {name for name in before if tiny.identical(before[name], after[name])}
    frozen = {
        name for name in before if '.trained.' in name or 'margin' in name or '_index' in name
    }
    assert {name for name in still if name.startswith('methods')} == frozen, (
        'connectors moved, what is frozen did not'
    )
    assert not any('decoder' in name for name in before), 'no decoder in stage 2'
    tiny.runner(config, tmp_path / 'two', iters=2).train()
    resumed = tiny.runner(config, tmp_path / 'two', iters=4, resume=True)
    resumed.train()
    assert tiny.differing(resumed.model.state_dict(), after) == []


def test_frozen_paraphraser_in_training_stays_in_eval_and_the_teacher_stops_at_its_tap(
    tmp_path: Path,
) -> None:
    teachers = one_teacher(tmp_path)
    some = {
        name: method for name, method in methods(tmp_path, teachers[0]).items() if name == 'ie_ft'
    }
    distiller = tiny.distiller(tmp_path, teachers=teachers, methods=some).train()
    (trained,) = distiller.methods.ie_ft.transform.targets.trained
    assert not any(module.training for module in trained.modules())
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    calls: list[str] = []
    for name in ('neck', 'head'):
        distiller.teachers[0].model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: calls.append(name)
        )
    tiny.losses_of(distiller)
    assert calls == []


def test_pair_without_a_trained_paraphraser_is_refused(tmp_path: Path) -> None:
    pairs = [dict(student=TAP, teacher=TAP)]
    with raises_config_error(CHECKPOINT, ANY, 'is missing', fix='ParaphraserTrainer'):
        tiny.distiller(tmp_path, methods=dict(ie=dict(type='IEKD', pairs=pairs)))


def test_pair_with_a_paraphraser_of_another_teacher_is_refused(tmp_path: Path) -> None:
    first, second = tiny.teachers(tmp_path, 2)
    pairs = [dict(student=TAP, teacher=TAP, checkpoint=paraphraser(tmp_path, second))]
    changes = dict(teachers=[first, second], methods=dict(ie=dict(type='IEKD', pairs=pairs)))
    mentions = ('teachers[0] (t0)', first['checkpoint'])
    with raises_config_error(CHECKPOINT, pairs[0]['checkpoint'], *mentions, fix='this teacher'):
        tiny.distiller(tmp_path, **changes)
    pairs[0]['index'] = 1
    tiny.distiller(tmp_path, **changes)


def test_pair_with_a_paraphraser_of_another_map_is_refused(tmp_path: Path) -> None:
    teachers = one_teacher(tmp_path)
    path = paraphraser(tmp_path, teachers[0], 'backbone.layer2')
    methods = dict(ie=dict(type='IEKD', pairs=[dict(student=TAP, teacher=TAP, checkpoint=path)]))
    with raises_config_error(CHECKPOINT, 'backbone.layer2', repr(TAP), path, fix='Train one'):
        tiny.distiller(tmp_path, teachers=teachers, methods=methods)


def test_pair_with_a_norm_that_is_a_convolution_is_refused(tmp_path: Path) -> None:
    norm = f'{TAP}.0.conv2'
    pairs = [dict(BEFORE_RELU, norm=norm)]
    with raises_config_error('methods.od.pairs[0].norm', norm, 'BatchNorm', 'Conv2d'):
        tiny.distiller(tmp_path, methods=dict(od=dict(type='Overhaul', pairs=pairs)))


def test_distiller_with_a_student_larger_than_its_teacher_trains_every_parameter(
    tmp_path: Path,
) -> None:
    small = [dict(name='small', model=tiny.classifier(), checkpoint=tiny.checkpoint(tmp_path))]
    every = methods(tmp_path, small[0])
    large = tiny.distiller(
        tmp_path, student=tiny.classifier(base_channels=8), teachers=small, methods=every
    )
    losses = tiny.losses_of(large)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(value.isfinite() for value in losses.values())
    trainable = {name: p for name, p in large.named_parameters() if p.requires_grad}
    assert [name for name, p in trainable.items() if p.grad is None] == []


METHODS = ('ie_ft', 'ie_at', 'ie_od', 'ft', 'at', 'od')
NOISE = partial(processes.add_noise, noise=1e-6)
OFF_BY_A_THOUSANDTH = partial(processes.scale_gradients, part='', scale=1.001)


@pytest.fixture(scope='module')
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a config for each method alone, and one for all together."""
    folder = tmp_path_factory.mktemp('configs')
    torch.manual_seed(0)
    teachers = one_teacher(folder)
    every = methods(folder, teachers[0])
    alone = {name: {name: method} for name, method in every.items()}
    return {
        name: tiny.distiller_config(folder, teachers=teachers, methods=some)
        for name, some in {**alone, 'all': every}.items()
    }


@pytest.fixture(scope='module')
def ranks(
    configs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Return losses and gradients of both processes, which are started once for all tests."""
    calls: processes.Calls = {}
    for name, config in configs.items():
        calls[name] = (processes.gradients, config)
        calls[f'{name}, control'] = (processes.gradients, config, OFF_BY_A_THOUSANDTH)
    return processes.in_two(tmp_path_factory.mktemp('two'), calls)


@pytest.mark.slow
@pytest.mark.parametrize('name', [*METHODS, 'all'])
def test_gradients_of_two_processes_equal_those_of_one(
    configs: dict[str, Any], ranks: list[dict[str, Any]], name: str
) -> None:
    """Each method alone: the largest gradient of all would hide errors of the smallest."""
    _, expected = processes.gradients(Path(), configs[name])
    for rank in ranks:
        assert processes.relative_error(rank[name][1], expected) <= 2e-5
        assert processes.relative_error(rank[f'{name}, control'][1], expected) > 2e-4


@pytest.mark.slow
@pytest.mark.parametrize('name', METHODS)
def test_compared_gradients_let_noise_stay_small(configs: dict[str, Any], name: str) -> None:
    """Noise is ten times as large as rounding errors: a comparison fails by it on no machine."""
    _, expected = processes.gradients(Path(), configs[name])
    _, noisy = processes.gradients(Path(), configs[name], NOISE)
    assert 0 < processes.relative_error(noisy, expected) <= 1e-4


@pytest.mark.slow
def test_ranks_have_equal_gradients_of_every_trained_parameter(
    ranks: list[dict[str, Any]],
) -> None:
    (logged, gradients), (other_logged, other) = (rank['all'] for rank in ranks)
    assert logged.keys() == other_logged.keys()
    assert tiny.differing(gradients, other) == []


def test_taps_before_a_shared_relu_of_a_stock_network_train(tmp_path: Path) -> None:
    stock = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=4, in_channels=64, loss=dict(type='CrossEntropyLoss')
        ),
    )
    teachers = [dict(name='stock', model=stock, checkpoint=tiny.checkpoint(tmp_path, stock))]
    tap = 'backbone.layer4.1.relu#1:input'
    pairs = [dict(student=tap, teacher=tap, norm='backbone.layer4.1.bn2')]
    every = dict(
        od=dict(type='Overhaul', pairs=pairs),
        ie=dict(type='IEKD', knowledge='overhaul', pairs=pairs),
    )
    distiller = tiny.distiller(tmp_path, student=stock, teachers=teachers, methods=every)
    inputs = distiller.data_preprocessor(tiny.batch_of(), True)['inputs']
    teacher = distiller.teachers[0]
    before_relu = teacher.observe(inputs).feature(tap)
    assert before_relu.min() < 0
    torch.testing.assert_close(before_relu.relu(), teacher.model.backbone(inputs)[-1])
    losses = tiny.losses_of(distiller)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert distiller.student.backbone.conv1.weight.grad.abs().sum() > 0
