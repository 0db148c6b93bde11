"""The distiller in a real Runner: resume, validation, averages, accumulation."""

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.checkpoints import state_of
from helpers.errors import raises_config_error
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

METHODS = dict(amtml=tiny.amtml(), kd=dict(type='SoftTarget'))


def test_run_of_two_iterations_moves_all_that_learns(tmp_path: Path) -> None:
    config = tiny.distiller_config(tmp_path, methods=METHODS)
    run = tiny.runner(config, tmp_path / 'run')
    run.model.init_weights = lambda: None  # compare with the weights as they are
    before = tiny.weights_of(run.model)
    run.train()
    still = {'record.began', 'teacher_scores', 'methods.amtml.hints.group_mapping.order'}
    frozen = 'methods.amtml.mixture.weighting.frozen'
    still |= {f'{frozen}{name}' for name in ('', '_factors', '_direction')}
    moved = set(tiny.differing(before, run.model.state_dict()))
    assert set(before) - moved == still, 'all else moved'
    logged = MessageHub.get_current_instance().log_scalars
    assert {
        'train/loss',
        'train/task.loss',
        'train/kd.loss_kd',
        'train/amtml.weight_entropy',
    } <= logged.keys()
    assert all(math.isfinite(logged[name].current()) for name in logged)


def test_run_that_resumes_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    config = tiny.distiller_config(tmp_path, methods=METHODS)
    unbroken = tiny.runner(config, tmp_path / 'one', iters=4)
    unbroken.train()
    tiny.runner(config, tmp_path / 'two', iters=2).train()
    resumed = tiny.runner(config, tmp_path / 'two', iters=4, resume=True)
    resumed.train()
    assert resumed.iter == 4
    assert tiny.differing(unbroken.model.state_dict(), resumed.model.state_dict()) == []


def test_run_that_resumes_with_another_teacher_file_is_refused(tmp_path: Path) -> None:
    config = tiny.distiller_config(tmp_path)
    run = tiny.runner(config, tmp_path / 'run')
    run.train()
    other = tiny.network(tiny.classifier(base_channels=6), seed=9).state_dict()
    torch.save(other, config['teachers'][1]['checkpoint'])
    resumed = tiny.runner(config, tmp_path / 'run', iters=4, resume=True)
    present, first = resumed.model.teachers[1].sha256, run.model.teachers[1].sha256
    with raises_config_error('teachers[1].sha256', present, first, fix='Put the files'):
        resumed.train()


def test_run_that_resumes_with_one_teacher_fewer_is_refused(tmp_path: Path) -> None:
    config = tiny.distiller_config(tmp_path)
    tiny.runner(config, tmp_path / 'run').train()
    fewer = tiny.runner(
        {**config, 'teachers': config['teachers'][:1]}, tmp_path / 'run', iters=4, resume=True
    )
    present = [dict(name='t0', sha256=fewer.model.teachers[0].sha256)]
    with raises_config_error('teachers', present, "'t1'", fix='Put the files'):
        fewer.train()


def test_run_that_resumes_has_the_measured_order_of_teachers(tmp_path: Path) -> None:
    config = tiny.distiller_config(tmp_path, methods=dict(amtml=tiny.amtml(mapping='best_high')))
    run = tiny.runner(config, tmp_path / 'run')
    run.model.set_teacher_scores([40.0, 70.0])
    run.train()
    resumed = tiny.runner(config, tmp_path / 'run', iters=3, resume=True)
    resumed.train()  # without an order this is an error
    assert resumed.model.methods.amtml.hints.group_mapping.groups() == (1, 2)
    assert resumed.model.teacher_scores.tolist() == [40.0, 70.0]


def test_run_with_all_weights_zero_equals_plain_training_to_the_bit(tmp_path: Path) -> None:
    student = tiny.classifier(train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)], probs=[0.5]))
    student['backbone'] = dict(
        type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8, drop_path_rate=0.3
    )
    student['head'].update(in_channels=64, loss=dict(type='CrossEntropyLoss', use_soft=True))
    plain = tiny.runner(
        copy.deepcopy({**student, 'data_preprocessor': tiny.preprocessor()}),
        tmp_path / 'plain',
        iters=5,
    )
    plain.train()
    methods = dict(
        kd=dict(type='SoftTarget', loss_weight=0.0),
        amtml=tiny.amtml(kd_weight=0, angle_weight=0, hint_weight=0),
    )
    ours = tiny.runner(
        tiny.distiller_config(
            tmp_path,
            student=student,
            teachers=[dict(model='none', checkpoint='none')],
            methods=methods,
        ),
        tmp_path / 'ours',
        iters=5,
    )
    ours.train()
    assert tiny.differing(plain.model.state_dict(), ours.model.student.state_dict()) == []
    assert not ours.model.teachers


def test_run_with_an_active_method_has_the_first_task_loss_of_a_plain_run(tmp_path: Path) -> None:
    first = []
    for methods in (dict(kd=dict(type='SoftTarget', loss_weight=0)), METHODS):
        tiny.runner(
            tiny.distiller_config(tmp_path, methods=methods), tmp_path / 'run', iters=1
        ).train()
        first.append(MessageHub.get_current_instance().get_scalar('train/task.loss').current())
    assert first[0] == first[1], 'same initialisation, same order of the data'


def test_run_with_validation_logs_the_accuracy_of_the_student(tmp_path: Path) -> None:
    run = tiny.runner(
        tiny.distiller_config(tmp_path),
        tmp_path / 'run',
        train_cfg=dict(by_epoch=False, max_iters=2, val_interval=1),
        **tiny.validation(),
    )
    run.train()
    score = MessageHub.get_current_instance().get_scalar('val/accuracy/top1').current()
    alone = tiny.network(tiny.classifier())
    alone.load_state_dict(run.model.student.state_dict())
    data = tiny.TinyImages(seed=1)
    with torch.no_grad():
        inputs = alone.data_preprocessor(dict(inputs=data.images), False)['inputs']
        right = (alone.eval()(inputs).argmax(dim=1) == torch.arange(16) % 4).float().mean()
    assert score == pytest.approx(100 * right.item())


def test_run_of_logit_mimic_without_labels_lowers_its_loss(tmp_path: Path) -> None:
    loader = dict(
        batch_size=16,
        num_workers=0,
        dataset=dict(type='TinyImages', labels=False),
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    config = tiny.distiller_config(
        tmp_path, methods=dict(mimic=dict(type='LogitMimic', standardize=True)), task_weight=0
    )
    run = tiny.runner(
        config,
        tmp_path / 'run',
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=15),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.01)),
        custom_hooks=[dict(type='mmkd_plugin.MeasureLogits')],
    )
    run.train()
    losses = MessageHub.get_current_instance().get_scalar('train/mimic.loss_mimic').data[0]
    assert losses[-1] < 0.5 * losses[0]
    assert run.model.methods.mimic.logit_std.min() > 0


def test_run_with_accumulated_gradients_equals_a_larger_batch(tmp_path: Path) -> None:
    """Two steps of 8 images accumulate the gradients of one step of 16, as all losses are means.

    The student's BatchNorm stays in eval mode.
    """
    weights = []
    methods = dict(amtml=tiny.amtml(angle_weight=0.0), kd=dict(type='SoftTarget'))
    config = tiny.distiller_config(tmp_path, methods=methods)
    for name, batch, iters, counts in (('one', 16, 1, 1), ('two', 8, 2, 2)):
        wrapper = dict(optimizer=dict(type='SGD', lr=0.5), accumulative_counts=counts)
        run = tiny.runner(config, tmp_path / name, iters=iters, batch=batch, optim_wrapper=wrapper)
        run.model.student.apply(_freeze_statistics)
        run.train()
        weights.append(run.model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6, equal_nan=True)


def _freeze_statistics(module: nn.Module) -> None:
    if isinstance(module, _BatchNorm):
        module.train = lambda mode=True: module  # stays in eval
        module.training = False


class Watch(Hook):
    """Keeps the averaged model."""

    def after_train(self, runner: Any) -> None:
        (self.ema,) = [
            hook.ema_model.module for hook in runner.hooks if type(hook).__name__ == 'EMAHook'
        ]


@pytest.mark.parametrize('update_buffers', [False, True])
def test_run_with_averaged_weights_saves_and_resumes_them(
    tmp_path: Path, update_buffers: bool
) -> None:
    config = tiny.distiller_config(tmp_path, methods=METHODS)
    watch = Watch()
    options: dict[str, Any] = dict(
        custom_hooks=[dict(type='EMAHook', momentum=0.3, update_buffers=update_buffers), watch],
        train_cfg=dict(by_epoch=False, max_iters=3, val_interval=3),
        **tiny.validation(),
    )
    run = tiny.runner(config, tmp_path / 'run', **options)
    teachers = [tiny.weights_of(teacher.model) for teacher in run.model.teachers]
    run.train()
    assert all(a is b for a, b in zip(watch.ema.teachers, run.model.teachers, strict=True))
    for before, teacher in zip(teachers, run.model.teachers, strict=True):
        assert not tiny.differing(before, teacher.model.state_dict())
    saved = state_of(tmp_path / 'run' / 'iter_3.pth')
    assert tiny.differing(saved, run.model.state_dict()), 'the file has the average'
    assert not tiny.differing(saved, watch.ema.state_dict())
    options['train_cfg']['max_iters'] = 5
    tiny.runner(config, tmp_path / 'run', resume=True, **options).train()


def test_run_with_taps_leaves_no_hook_behind(tmp_path: Path) -> None:
    run = tiny.runner(tiny.distiller_config(tmp_path, methods=METHODS), tmp_path / 'run')
    run.train()
    modules = [run.model, *(teacher.model for teacher in run.model.teachers)]
    assert not any(module._forward_hooks for model in modules for module in model.modules())


def test_run_with_a_frozen_weighting_moves_it_no_more(tmp_path: Path) -> None:
    class Freeze(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            self.weightings.append(weights())
            if batch_idx == 2:
                runner.model.methods.amtml.mixture.weighting.freeze()

        weightings: list[Tensor] = []  # noqa: RUF012

    config = tiny.distiller_config(tmp_path, methods=dict(amtml=tiny.amtml(objective='label')))
    freeze = Freeze()
    run = tiny.runner(config, tmp_path / 'run', iters=5, custom_hooks=[freeze])
    embedding = torch.rand(4, 16)

    def weights() -> Tensor:
        return run.model.methods.amtml.mixture.weighting(embedding).detach()

    run.train()
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(freeze.weightings)]
    assert moved == [True, True, False, False]
