"""Stage 1: a paraphraser of a teacher's map, in a real Runner and one call at a time."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from mmengine.logging import MessageHub
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.models.connectors import FrozenParaphraser
from mmkd_plugin.models.distillers import ParaphraserTrainer

TAP = 'backbone.layer2'
TEACHER = tiny.classifier(base_channels=6)  # 12 channels of 4x4 at the tap
VALIDATION: dict[str, Any] = dict(
    val_dataloader=dict(
        batch_size=8,
        num_workers=0,
        dataset=dict(type='TinyImages', seed=1),
        sampler=dict(type='DefaultSampler', shuffle=False),
    ),
    val_evaluator=dict(type='Accuracy', topk=(1,)),
    val_cfg=dict(),
)


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    given = dict(
        type='mmkd_plugin.ParaphraserTrainer', tap=TAP, data_preprocessor=dict(tiny.PREPROCESSOR)
    )
    if 'teacher' not in changes:
        given['teacher'] = tiny.teachers(folder, 1)[0]
    return {**given, **changes}


def trainer(folder: Path, **changes: Any) -> ParaphraserTrainer:
    return ROOT_MODELS.build(config(folder, **changes))


def alone() -> nn.Module:
    """The network of the teacher's checkpoint."""
    return tiny.network(TEACHER, seed=1).eval()


def feature_of(network: nn.Module, inputs: Tensor, tap: str = TAP) -> Tensor:
    with torch.no_grad(), FeatureTaps(network, [tap]).record(network) as features:
        network(inputs)
    return features[tap]


def inputs_of(model: ParaphraserTrainer) -> Tensor:
    return model.data_preprocessor(tiny.batch_of(), True)['inputs']


@pytest.mark.parametrize(('distance', 'by_hand'), [('l1', F.l1_loss), ('l2', F.mse_loss)])
def test_the_loss_compares_the_map_with_its_reconstruction(
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


def test_the_teacher_runs_no_further_than_the_tap(tmp_path: Path) -> None:
    model, ran = trainer(tmp_path), []
    for name in (TAP, 'backbone.layer3', 'head'):
        model.teacher.model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: ran.append(name)
        )
    tiny.losses_of(model)
    assert ran == [TAP]


def test_the_factor_is_the_tensor(tmp_path: Path) -> None:
    model = trainer(tmp_path, paraphraser=dict(factor_channels=5)).eval()
    inputs = inputs_of(model)
    factor = model(inputs)
    assert factor.shape == (8, 5, 4, 4)
    torch.testing.assert_close(factor, model.paraphraser.encode(feature_of(alone(), inputs)))


def through_reconstruction(model: ParaphraserTrainer, inputs: Tensor) -> Tensor:
    """The teacher's class scores by hand, layer for layer behind the tap."""
    network = alone()
    with torch.no_grad():
        reconstruction = copy.deepcopy(model.paraphraser).eval()(feature_of(network, inputs))
        return network.head.fc(network.backbone.layer3(reconstruction).mean(dim=(2, 3)))


def test_predictions_are_the_teachers_from_the_reconstruction(tmp_path: Path) -> None:
    model = trainer(tmp_path).eval()
    raw = tiny.batch_of()
    inputs = model.data_preprocessor(raw)['inputs']
    scores = torch.stack([sample.pred_score for sample in model.val_step(raw)])
    torch.testing.assert_close(scores, through_reconstruction(model, inputs).softmax(dim=1))
    plain = torch.stack([sample.pred_score for sample in alone().val_step(tiny.batch_of())])
    assert not torch.allclose(scores, plain, atol=1e-3)
    model.paraphraser.forward = lambda feature: feature  # a perfect one
    assert torch.equal(
        torch.stack([sample.pred_score for sample in model.val_step(tiny.batch_of())]), plain
    )
    assert not any(module._forward_hooks for module in model.teacher.model.modules())


def test_the_evaluator_reports_the_accuracy_under_reconstruction(tmp_path: Path) -> None:
    run = tiny.runner(
        config(tmp_path),
        tmp_path / 'run',
        train_cfg=dict(by_epoch=False, max_iters=2, val_interval=1),
        **VALIDATION,
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


def test_two_iterations(tmp_path: Path) -> None:
    run = tiny.runner(config(tmp_path), tmp_path / 'run')
    before = tiny.weights_of(run.model)
    run.train()
    after = run.model.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {'record', 'teacher_sha256'}, 'all else moved'
    logged = MessageHub.get_current_instance().log_scalars
    assert {'train/loss', 'train/loss_rec', 'train/relative_error'} <= logged.keys()


def test_reconstruction_is_learned_without_labels(tmp_path: Path) -> None:
    run = tiny.runner(
        config(tmp_path, paraphraser=dict(factor_rate=1.0, norm=None)),
        tmp_path / 'run',
        iters=60,
        dataset=dict(type='TinyImages', labels=False),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.02)),
    )
    run.train()
    errors = MessageHub.get_current_instance().get_scalar('train/relative_error').data[0]
    assert errors[0] > 0.8  # a reconstruction of zeros has an error of 1
    assert errors[-1] < 0.6


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
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
    ('changes', 'message'),
    [
        (
            dict(tap='backbone.layer1'),
            r"^tap: expected 'backbone.layer2', with which the run began, got 'backbone.layer1'",
        ),
        (
            dict(paraphraser=dict(last='linear')),
            r"^paraphraser: expected \{.*'last': 'leaky_relu'.*\}, with which the run began, got \{.*'linear'",
        ),
        (
            dict(paraphraser=dict(factor_channels=2)),
            r"^paraphraser: expected .*'factor_channels': 6.*got .*: 2",
        ),
    ],
)
def test_a_resumed_run_of_another_config(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    given = config(tmp_path)
    tiny.runner(given, tmp_path / 'run').train()
    resumed = tiny.runner({**given, **changes}, tmp_path / 'run', iters=4, resume=True)
    with pytest.raises(ValueError, match=message):
        resumed.train()


def test_a_teacher_that_changed_stops_a_resumed_run(tmp_path: Path) -> None:
    given = config(tmp_path)
    tiny.runner(given, tmp_path / 'run').train()
    torch.save(tiny.network(TEACHER, seed=9).state_dict(), given['teacher']['checkpoint'])
    resumed = tiny.runner(given, tmp_path / 'run', iters=4, resume=True)
    with pytest.raises(
        ValueError,
        match=r'^teacher \(t0\)\.checkpoint: expected the file that the run began with, got',
    ):
        resumed.train()


def test_another_models_checkpoint(tmp_path: Path) -> None:
    run = tiny.runner(config(tmp_path), tmp_path / 'run', load_from=tiny.checkpoint(tmp_path))
    message = r'^checkpoint: expected that of a run of mmkd_plugin.ParaphraserTrainer, got one with backbone'
    with pytest.raises(ValueError, match=message):
        run.train()


def test_state_dict(tmp_path: Path) -> None:
    model = trainer(tmp_path, paraphraser=dict(norm='gn', factor_rate=0.25))
    state = model.state_dict()
    own = {f'paraphraser.{name}' for name in model.paraphraser.state_dict()}
    assert set(state) == {*own, 'record', 'teacher_sha256'}
    assert {name: state[name].dtype for name in ('record', 'teacher_sha256')} == dict.fromkeys(
        ('record', 'teacher_sha256'), torch.uint8
    )
    assert bytes(state['teacher_sha256'].tolist()) == model.teacher.sha256
    record = json.loads(bytes(state['record'].tolist()))
    assert record['tap'] == TAP
    assert record['arguments'] == dict(
        in_channels=12, factor_channels=3, norm='gn', last='leaky_relu', transposed=True
    )


def test_the_teacher_is_no_part_of_the_trainer(tmp_path: Path) -> None:
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


def test_averaged_weights_are_saved_and_resumed(tmp_path: Path) -> None:
    given, hooks = config(tmp_path), [dict(type='EMAHook', momentum=0.3)]
    run = tiny.runner(given, tmp_path / 'run', custom_hooks=hooks)
    run.train()
    saved = torch.load(tmp_path / 'run' / 'iter_2.pth', weights_only=True)['state_dict']
    name = 'paraphraser.encoder.layers.0.weight'
    assert not torch.equal(saved[name], run.model.state_dict()[name])
    assert torch.equal(saved['record'], run.model.record)
    tiny.runner(given, tmp_path / 'run', iters=4, resume=True, custom_hooks=hooks).train()


def test_gradients_reach_every_parameter_and_no_teacher(tmp_path: Path) -> None:
    model = trainer(tmp_path)
    tiny.losses_of(model)['loss_rec'].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert all(p.grad is None for p in model.teacher.model.parameters())


def test_half_precision_on_the_cpu(tmp_path: Path) -> None:
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
def test_a_last_batch_of_one_or_two_images_trains(tmp_path: Path, count: int) -> None:
    model = trainer(tmp_path)
    losses = tiny.losses_of(model, tiny.batch_of(count))
    losses['loss_rec'].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_map_of_zeros_gives_finite_numbers(tmp_path: Path) -> None:
    model = trainer(tmp_path)
    model.teacher.model.get_submodule(TAP).register_forward_hook(
        lambda module, args, out: torch.zeros_like(out)
    )
    losses = tiny.losses_of(model)
    assert all(value.isfinite() for value in losses.values())


def test_batches_are_made_as_the_teachers_own_preprocessor_makes_them(tmp_path: Path) -> None:
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
def test_taps_of_every_form(tmp_path: Path, tap: str, channels: int) -> None:
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


def test_the_tokens_of_a_transformer_are_a_map(tmp_path: Path) -> None:
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


def test_stage_2_reads_what_stage_1_wrote(tmp_path: Path) -> None:
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
    ('changes', 'message'),
    [
        (
            dict(teacher='r56'),
            r"^teacher: expected dict\(name=…, model=…, checkpoint=…\), got 'r56'",
        ),
        (
            dict(teacher=dict(model=TEACHER)),
            r'^teacher \(teacher\)\.checkpoint: expected the path or URL of trained weights',
        ),
        (
            dict(tap='backbone.layer9'),
            r"^tap: expected the path of a module of ImageClassifier, got 'backbone.layer9'",
        ),
        (dict(tap=['backbone.layer2']), r'^tap: expected a tap such as'),
        (dict(tap='neck'), r"^tap: expected a map \(N, C, H, W\) at 'neck', got \(1, 24\)"),
        (dict(distance='cosine'), r"^distance: expected one of 'l1', 'l2', got 'cosine'"),
        (
            dict(paraphraser=dict(in_channels=5)),
            r"^paraphraser\.in_channels: expected 12 as at 'backbone.layer2', got 5",
        ),
        (
            dict(paraphraser=dict(factor_rate=-1)),
            r'^paraphraser\.factor_rate: expected a number > 0, got -1',
        ),
        (
            dict(paraphraser=dict(factor_rate=float('nan'))),
            r'^paraphraser\.factor_rate: expected a number, got nan',
        ),
        (
            dict(paraphraser=dict(factors=3)),
            r'^paraphraser: expected a Paraphraser and its arguments, got .*factors',
        ),
        (
            dict(paraphraser=dict(type='Nothing')),
            r'^paraphraser: expected a Paraphraser and its arguments, got .*Nothing',
        ),
        (
            dict(paraphraser='Paraphraser'),
            r"^paraphraser: expected dict\(type='Paraphraser', …\), got 'Paraphraser'",
        ),
        (
            dict(paraphraser=dict(type='OverhaulConnector', out_channels=3)),
            r"^paraphraser\.type: expected 'Paraphraser', got 'OverhaulConnector'",
        ),
        (
            dict(probe_shape=(3, 8)),
            r'^probe_shape: expected \(channels, height, width\), got \(3, 8\)',
        ),
        (
            dict(probe_shape=(1, 8, 8)),
            r'^probe_shape: .* an input that the teacher accepts, tried \[\(1, 8, 8\)\]',
        ),
    ],
)
def test_what_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **changes)
