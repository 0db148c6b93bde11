"""Stage 1: a paraphraser of a teacher's map, in a real Runner and one call at a time."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.checkpoints import state_of
from helpers.errors import raises_config_error
from mmengine.logging import MessageHub
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.loading.run_record import read_record
from mmkd_plugin.models.connectors import FrozenParaphraser
from mmkd_plugin.models.distillers import ParaphraserTrainer

TAP = 'backbone.layer2'
NAN = float('nan')
TEACHER = tiny.classifier(base_channels=6)  # 12 channels of 4x4 at the tap


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    given = dict(
        type='mmkd_plugin.ParaphraserTrainer', tap=TAP, data_preprocessor=tiny.preprocessor()
    )
    if 'teacher' not in changes:
        given['teacher'] = tiny.teachers(folder, 1)[0]
    return {**given, **changes}


def trainer(folder: Path, **changes: Any) -> ParaphraserTrainer:
    return ROOT_MODELS.build(config(folder, **changes))


def alone() -> nn.Module:
    """Return the network of the teacher's checkpoint."""
    return tiny.network(TEACHER, seed=1).eval()


def feature_of(network: nn.Module, inputs: Tensor, tap: str = TAP) -> Tensor:
    tapped = TappedModel(network, 'network')
    tapped.request([tap])
    with torch.no_grad(), tapped.recording(inputs) as recording:
        network(inputs)
    return recording.output.feature(tap)


def inputs_of(model: ParaphraserTrainer) -> Tensor:
    return model.data_preprocessor(tiny.batch_of(), True)['inputs']


@pytest.mark.parametrize(('distance', 'by_hand'), [('l1', F.l1_loss), ('l2', F.mse_loss)])
def test_loss_of_the_trainer_compares_the_map_with_its_reconstruction(
    tmp_path: Path, distance: str, by_hand: Any
) -> None:
    model = trainer(tmp_path, distance=distance)
    losses = tiny.losses_of(model)
    feature = feature_of(alone(), inputs_of(model))
    reconstruction = model.paraphraser(feature)
    torch.testing.assert_close(losses['loss_rec'], by_hand(reconstruction, feature))
    error = (reconstruction - feature).norm() / feature.norm()
    torch.testing.assert_close(losses['relative_error'], error.detach())
    assert losses.keys() == {'loss_rec', 'relative_error'}
    assert not losses['relative_error'].requires_grad
    total, logged = model.parse_losses(losses)
    assert torch.equal(total, losses['loss_rec']) and 'relative_error' in logged


def test_teacher_in_training_stops_at_the_tap(tmp_path: Path) -> None:
    model, ran = trainer(tmp_path), []
    for name in (TAP, 'backbone.layer3', 'head'):
        model.teacher.model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: ran.append(name)
        )
    tiny.losses_of(model)
    assert ran == [TAP]


def test_forward_in_tensor_mode_returns_the_factor(tmp_path: Path) -> None:
    model = trainer(tmp_path, paraphraser=dict(factor_channels=5)).eval()
    inputs = inputs_of(model)
    factor = model(inputs)
    assert factor.shape == (8, 5, 4, 4)
    torch.testing.assert_close(factor, model.paraphraser.encode(feature_of(alone(), inputs)))


def through_reconstruction(model: ParaphraserTrainer, inputs: Tensor) -> Tensor:
    """Compute the teacher's class scores from the reconstruction, one layer after another."""
    network = alone()
    with torch.no_grad():
        reconstruction = copy.deepcopy(model.paraphraser).eval()(feature_of(network, inputs))
        return network.head.fc(network.backbone.layer3(reconstruction).mean(dim=(2, 3)))


def test_predictions_of_the_trainer_are_the_teachers_from_the_reconstruction(
    tmp_path: Path,
) -> None:
    model = trainer(tmp_path).eval()
    raw = tiny.batch_of()
    inputs = model.data_preprocessor(raw)['inputs']
    scores = torch.stack([sample.pred_score for sample in model.val_step(raw)])
    torch.testing.assert_close(scores, through_reconstruction(model, inputs).softmax(dim=1))
    plain = torch.stack([sample.pred_score for sample in alone().val_step(tiny.batch_of())])
    assert not torch.allclose(scores, plain, atol=1e-3)
    model.paraphraser.forward = lambda feature: feature  # reconstructs without an error
    assert torch.equal(
        torch.stack([sample.pred_score for sample in model.val_step(tiny.batch_of())]), plain
    )
    assert not any(module._forward_hooks for module in model.teacher.model.modules())


def test_run_with_validation_logs_the_accuracy_under_reconstruction(tmp_path: Path) -> None:
    run = tiny.runner(
        config(tmp_path),
        tmp_path / 'run',
        train_cfg=dict(by_epoch=False, max_iters=2, val_interval=1),
        **tiny.validation(),
    )
    teacher = tiny.weights_of(run.model.teacher.model)
    run.train()
    score = MessageHub.get_current_instance().get_scalar('val/accuracy/top1').current()
    inputs = run.model.data_preprocessor(dict(inputs=tiny.TinyImages(seed=1).images), False)[
        'inputs'
    ]
    right = through_reconstruction(run.model, inputs).argmax(dim=1) == torch.arange(16) % 4
    assert score == pytest.approx(100 * right.float().mean().item())
    assert all(
        torch.equal(teacher[name], value)
        for name, value in run.model.teacher.model.state_dict().items()
    )
    assert not run.model.teacher.model.training


def test_run_of_two_iterations_moves_the_paraphraser(tmp_path: Path) -> None:
    run = tiny.runner(config(tmp_path), tmp_path / 'run')
    before = tiny.weights_of(run.model)
    run.train()
    after = run.model.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {'record.began'}, 'all else moved'
    logged = MessageHub.get_current_instance().log_scalars
    assert {'train/loss', 'train/loss_rec', 'train/relative_error'} <= logged.keys()


def test_run_without_labels_lowers_the_reconstruction_error(tmp_path: Path) -> None:
    run = tiny.runner(
        config(tmp_path, paraphraser=dict(factor_rate=1.0, norm=None)),
        tmp_path / 'run',
        iters=150,
        dataset=dict(type='TinyImages', labels=False),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.02)),
    )
    run.train()
    errors = MessageHub.get_current_instance().get_scalar('train/relative_error').data[0]
    assert errors[0] > 0.8  # a reconstruction of zeros has an error of 1
    assert errors[-1] < 0.6


def test_run_that_resumes_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    given = config(tmp_path)
    unbroken = tiny.runner(given, tmp_path / 'one', iters=4)
    unbroken.train()
    tiny.runner(given, tmp_path / 'two', iters=2).train()
    resumed = tiny.runner(given, tmp_path / 'two', iters=4, resume=True)
    resumed.train()
    assert resumed.iter == 4
    expected = unbroken.model.state_dict()
    assert all(
        torch.equal(expected[name], value) for name, value in resumed.model.state_dict().items()
    )


@pytest.mark.parametrize(
    ('changes', 'key', 'found', 'first'),
    [
        (dict(tap='backbone.layer1'), 'tap', 'backbone.layer1', "'backbone.layer2'"),
        (dict(paraphraser=dict(last='linear')), 'paraphraser.last', 'linear', "'leaky_relu'"),
        (dict(paraphraser=dict(factor_channels=2)), 'paraphraser.factor_channels', 2, 'is not 6'),
    ],
)
def test_run_that_resumes_with_another_config_is_refused(
    tmp_path: Path, changes: dict[str, Any], key: str, found: Any, first: str
) -> None:
    given = config(tmp_path)
    tiny.runner(given, tmp_path / 'run').train()
    resumed = tiny.runner({**given, **changes}, tmp_path / 'run', iters=4, resume=True)
    with raises_config_error(key, found, first, fix='start a new run'):
        resumed.train()


def test_run_that_resumes_with_another_teacher_file_is_refused(tmp_path: Path) -> None:
    given = config(tmp_path)
    tiny.runner(given, tmp_path / 'run').train()
    torch.save(tiny.network(TEACHER, seed=9).state_dict(), given['teacher']['checkpoint'])
    resumed = tiny.runner(given, tmp_path / 'run', iters=4, resume=True)
    with raises_config_error('teacher.sha256', resumed.model.teacher.sha256, fix='start a new'):
        resumed.train()


def test_run_from_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run = tiny.runner(config(tmp_path), tmp_path / 'run', load_from=tiny.checkpoint(tmp_path))
    found = ', '.join(list(alone().state_dict())[:3])
    with raises_config_error('checkpoint', found, 'mmkd_plugin.ParaphraserTrainer', fix=''):
        run.train()


def test_state_dict_of_the_trainer_holds_paraphraser_and_record(tmp_path: Path) -> None:
    model = trainer(tmp_path, paraphraser=dict(norm='gn', factor_rate=0.25))
    state = model.state_dict()
    own = {f'paraphraser.{name}' for name in model.paraphraser.state_dict()}
    assert set(state) == {*own, 'record.began'}
    arguments = dict(
        in_channels=12, factor_channels=3, norm='gn', last='leaky_relu', transposed=True
    )
    teacher = dict(name='t0', sha256=model.teacher.sha256)
    assert read_record(state) == dict(tap=TAP, paraphraser=arguments, teacher=teacher)


def test_teacher_of_a_trainer_is_never_copied_trained_or_saved(tmp_path: Path) -> None:
    model = trainer(tmp_path)
    before = tiny.weights_of(model.teacher.model)
    model.init_weights()
    model.train()
    assert all(
        torch.equal(before[name], value) for name, value in model.teacher.model.state_dict().items()
    )
    assert not model.teacher.model.training
    own = {id(tensor) for tensor in model.teacher.model.state_dict(keep_vars=True).values()}
    assert not own & {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for other in (copy.deepcopy(model), ExponentialMovingAverage(model).module):
        assert other.teacher is model.teacher
        assert other.paraphraser is not model.paraphraser


def test_run_with_averaged_weights_saves_and_resumes_them(tmp_path: Path) -> None:
    given, hooks = config(tmp_path), [dict(type='EMAHook', momentum=0.3)]
    run = tiny.runner(given, tmp_path / 'run', custom_hooks=hooks)
    run.train()
    saved = state_of(tmp_path / 'run' / 'iter_2.pth')
    name = 'paraphraser.encoder.layers.0.weight'
    assert not torch.equal(saved[name], run.model.state_dict()[name])
    assert torch.equal(saved['record.began'], run.model.record.began)
    tiny.runner(given, tmp_path / 'run', iters=4, resume=True, custom_hooks=hooks).train()


def test_gradients_of_the_loss_reach_every_parameter_and_no_teacher(tmp_path: Path) -> None:
    model = trainer(tmp_path)
    tiny.losses_of(model)['loss_rec'].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert all(p.grad is None for p in model.teacher.model.parameters())


def test_losses_under_autocast_are_float32_and_close(tmp_path: Path) -> None:
    model, seen = trainer(tmp_path), []
    model.paraphraser.register_forward_hook(
        lambda module, args, out: seen.extend([args[0].dtype, out.dtype])
    )
    with torch.autocast('cpu', torch.bfloat16):
        losses = tiny.losses_of(model)
    assert torch.bfloat16 in seen
    exact = tiny.losses_of(model)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.05, atol=0.02)
    losses['loss_rec'].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('count', [1, 2])
def test_loss_of_one_or_two_images_has_finite_gradients(tmp_path: Path, count: int) -> None:
    model = trainer(tmp_path)
    losses = tiny.losses_of(model, tiny.batch_of(count))
    losses['loss_rec'].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_losses_of_a_map_of_zeros_are_finite(tmp_path: Path) -> None:
    model = trainer(tmp_path)
    model.teacher.model.get_submodule(TAP).register_forward_hook(
        lambda module, args, out: torch.zeros_like(out)
    )
    losses = tiny.losses_of(model)
    assert all(value.isfinite() for value in losses.values())


def test_preprocessing_of_the_trainer_is_the_teachers_own(tmp_path: Path) -> None:
    own = dict(type='ClsDataPreprocessor', mean=[10.0] * 3, std=[20.0] * 3)
    model = trainer(tmp_path, teacher=tiny.teachers(tmp_path, 1, data_preprocessor=own)[0])
    assert model.data_preprocessor.mean.flatten().tolist() == [10.0] * 3
    assert trainer(tmp_path).data_preprocessor.mean.flatten().tolist() == [120.0] * 3


@pytest.mark.parametrize(
    ('tap', 'channels'),
    [
        ('backbone', 24),
        ('backbone[0]', 24),  # a tuple of one
        ('backbone.layer2.0.relu2:input', 12),
        ('backbone.layer1.0.conv2', 6),
    ],
)
def test_tap_of_every_form_trains_and_predicts(tmp_path: Path, tap: str, channels: int) -> None:
    model = trainer(tmp_path, tap=tap).eval()
    assert model.paraphraser.in_channels == channels
    assert tiny.losses_of(model)['loss_rec'] > 0
    plain = torch.stack([sample.pred_score for sample in alone().val_step(tiny.batch_of())])
    assert not torch.equal(
        torch.stack([sample.pred_score for sample in model.val_step(tiny.batch_of())]), plain
    )
    model.paraphraser.forward = lambda feature: feature
    assert torch.equal(
        torch.stack([sample.pred_score for sample in model.val_step(tiny.batch_of())]), plain
    )


def test_tap_of_transformer_tokens_is_a_map(tmp_path: Path) -> None:
    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8)
    vit = dict(
        type='ImageClassifier',
        backbone=dict(type='VisionTransformer', arch=arch, img_size=8, patch_size=2),
        head=dict(type='LinearClsHead', num_classes=tiny.CLASSES, in_channels=8),
    )
    teacher = dict(model=vit, checkpoint=tiny.checkpoint(tmp_path, vit, seed=5))
    model = trainer(tmp_path, teacher=teacher, tap='backbone.layers.0').eval()
    assert model(inputs_of(model)).shape == (8, 4, 4, 4)
    assert tiny.losses_of(model)['loss_rec'] > 0
    plain = torch.stack(
        [s.pred_score for s in tiny.network(vit, seed=5).eval().val_step(tiny.batch_of())]
    )
    changed = torch.stack([sample.pred_score for sample in model.val_step(tiny.batch_of())])
    assert not torch.equal(changed, plain)
    model.paraphraser.forward = lambda feature: feature
    assert torch.equal(
        torch.stack([sample.pred_score for sample in model.val_step(tiny.batch_of())]), plain
    )


def test_frozen_paraphraser_from_a_run_equals_the_trained_one(tmp_path: Path) -> None:
    given = config(tmp_path, paraphraser=dict(norm=None, factor_channels=3, transposed=False))
    run = tiny.runner(given, tmp_path / 'run')
    run.train()
    frozen = FrozenParaphraser.load(
        str(tmp_path / 'run' / 'iter_2.pth'), 'pairs[0].checkpoint', TAP, 12
    )
    assert (frozen.tap, frozen.in_channels, frozen.factor_channels) == (TAP, 12, 3)
    assert frozen.teacher_sha256 == run.model.teacher.sha256
    feature = torch.randn(2, 12, 4, 4)
    assert torch.equal(frozen.encode(feature), run.model.paraphraser.eval().encode(feature))


@pytest.mark.parametrize(
    ('changes', 'key', 'found', 'mention'),
    [
        (dict(teacher='r56'), 'teacher', 'r56', 'dict(name=…, model=…, checkpoint=…)'),
        (
            dict(teacher=dict(model=TEACHER)),
            'teacher (teacher).checkpoint',
            None,
            'trained weights',
        ),
        (dict(tap='backbone.layer9'), 'tap', 'backbone.layer9', "'backbone.layer"),
        (dict(tap=['backbone.layer2']), 'tap', ['backbone.layer2'], "'backbone.layer4'"),
        (dict(tap='neck'), 'tap', (2, 24), "a map (N, C, H, W), but 'neck'"),
        (dict(distance='cosine'), 'distance', 'cosine', "'l1', 'l2'"),
        (dict(paraphraser=dict(in_channels=5)), 'paraphraser.in_channels', 5, 'must be 12'),
        (dict(paraphraser=dict(factor_rate=-1)), 'paraphraser.factor_rate', -1, 'a number > 0'),
        (dict(paraphraser=dict(factor_rate=NAN)), 'paraphraser.factor_rate', NAN, 'a number'),
        (dict(paraphraser=dict(factors=3)), 'paraphraser.factors', 3, 'factor_channels'),
        (dict(paraphraser=dict(type='Nothing')), 'paraphraser.type', 'Nothing', "'Paraphraser'"),
        (dict(paraphraser='Paraphraser'), 'paraphraser', 'Paraphraser', "type='Paraphraser'"),
        (
            dict(paraphraser=dict(type='OverhaulConnector', out_channels=3)),
            'paraphraser.type',
            'OverhaulConnector',
            'Paraphraser',
        ),
        (dict(probe_shape=(3, 8)), 'probe_shape', (3, 8), '(channels, height, width)'),
    ],
)
def test_trainer_with_a_wrong_value_is_refused(
    tmp_path: Path, changes: dict[str, Any], key: str, found: Any, mention: str
) -> None:
    with raises_config_error(key, found, mention):
        trainer(tmp_path, **changes)
