"""Training on a GPU gives what training on the CPU gives. These tests need a GPU."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.engine import PeerOptimWrappers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')

MAP = 'backbone.layer3'
PAIRS = [dict(student=MAP, teacher=MAP)]
METHODS: dict[str, dict[str, Any]] = {
    'SoftTarget': dict(type='SoftTarget'),
    'standardised': dict(type='SoftTarget', standardize=True),
    'LogitMimic': dict(type='LogitMimic'),
    'DIST': dict(type='DIST'),
    'DKD': dict(type='DKD'),
    'NKD': dict(type='NKD', temperature=2.0),
    'HardTarget': dict(type='HardTarget', min_confidence=0.2),
    'RKD': dict(type='RKD'),
    'AMTMLKD, DKD': tiny.amtml(soft_target=dict(type='DKD')),
    'AMTMLKD': tiny.amtml(objective='label'),
    'AngleTransfer': dict(type='AngleTransfer'),
    'Hint': dict(type='Hint', pairs=PAIRS),
    'AttentionTransfer': dict(type='AttentionTransfer', pairs=PAIRS),
    'PKD': dict(type='PKD', pairs=PAIRS),
    'CWD': dict(type='CWD', pairs=PAIRS),
    'MGD': dict(type='MGD', pairs=PAIRS, mask_ratio=0.0, loss_weight=1e-3),
    'IEKD': dict(type='IEKD', knowledge='attention', pairs=PAIRS),
    'RelationMethod': dict(type='RelationMethod', loss=dict(type='DistanceLoss'), tap='neck'),
}


def full_precision() -> Iterator[None]:
    """Multiply in float32, not in TF32."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in settings]
    for one in settings:
        one.allow_tf32 = False
    yield
    for one, value in zip(settings, before, strict=True):
        one.allow_tf32 = value


in_full_precision = pytest.fixture(autouse=True)(full_precision)


def on_devices(
    model: Any, losses_of: Callable[[Any], Any], devices: Sequence[str] = ('cpu', 'cuda')
) -> list[tuple[dict[str, torch.Tensor], list[torch.Tensor]]]:
    """Return the losses and the gradients of a distiller in float64, on each device."""
    model.double().train()
    for teacher in model.teachers:
        teacher.model.double()
    model.data_preprocessor = InDouble(model.data_preprocessor)
    found = []
    for device in devices:
        copied = copy.deepcopy(model).to(device)
        total, logged = copied.parse_losses(losses_of(copied))
        total.backward()
        gradients = [p.grad.cpu() for p in copied.parameters() if p.grad is not None]
        found.append(({name: value.cpu() for name, value in logged.items()}, gradients))
    return found


@pytest.mark.parametrize('name', METHODS)
def test_distiller_on_gpu_has_the_losses_and_gradients_of_the_cpu(
    tmp_path: Path, name: str
) -> None:
    model = tiny.distiller(tmp_path, methods=dict(m=METHODS[name]))
    on_cpu, on_gpu = on_devices(model, tiny.losses_of)
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-6, atol=1e-9)


class InDouble(torch.nn.Module):
    """A preprocessor whose images are float64, so that rounding does not hide a difference."""

    def __init__(self, preprocessor: torch.nn.Module) -> None:
        super().__init__()
        self.preprocessor = preprocessor

    def forward(self, data: Any, training: bool = False) -> Any:
        batch = self.preprocessor(data, training)
        return {**batch, 'inputs': batch['inputs'].double()}


@pytest.mark.parametrize('order', ['alternating', 'simultaneous'])
def test_mutual_distiller_on_gpu_updates_every_peer(order: str) -> None:
    methods = dict(dml=dict(type='SoftTarget', temperature=1.0), **tiny.inherit_explore())
    model = ROOT_MODELS.build(tiny.mutual_config(order=order, methods=methods)).cuda().train()
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=0.05)))(model)
    before = tiny.weights_of(model)
    logged = model.train_step(tiny.batch_of(), wrappers)
    assert all(value.isfinite() for value in logged.values())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert not torch.equal(parameter, before[name]), name


def test_mixed_precision_in_float16_trains_every_method(tmp_path: Path) -> None:
    methods = {f'm{number}': config for number, config in enumerate(METHODS.values())}
    model = tiny.distiller(tmp_path, methods=methods).cuda().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    wrapper = AmpOptimWrapper(optimizer=optimizer, dtype='float16', loss_scale=1.0)
    for _ in range(3):
        logged = model.train_step(tiny.batch_of(), wrapper)
    assert all(value.isfinite() for value in logged.values())
    assert all(p.isfinite().all() for p in model.parameters())


def test_run_on_gpu_resumes_to_the_weights_of_an_unbroken_run(tmp_path: Path) -> None:
    config = tiny.distiller_config(tmp_path, methods=dict(a=tiny.amtml()))  # hints pool maps
    deterministic = dict(seed=3, deterministic=True)
    whole = tiny.runner(copy.deepcopy(config), tmp_path / 'whole', 4, randomness=deterministic)
    whole.train()
    tiny.runner(copy.deepcopy(config), tmp_path / 'half', 2, randomness=deterministic).train()
    resumed = tiny.runner(
        copy.deepcopy(config),
        tmp_path / 'half',
        4,
        resume=True,
        load_from=str(tmp_path / 'half' / 'iter_2.pth'),
        randomness=deterministic,
    )
    resumed.train()
    assert next(whole.model.parameters()).is_cuda
    torch.testing.assert_close(
        tiny.weights_of(resumed.model),
        tiny.weights_of(whole.model),
        rtol=1e-5,
        atol=1e-6,
        equal_nan=True,  # scores are NaN until they are measured
    )


def outputs_of(model: Any) -> list[dict[str, torch.Tensor]]:
    """Return the outputs of each teacher for one batch on the GPU."""
    batch = model.data_preprocessor(tiny.batch_of(), True)
    return [one.tensors() for one in model.observe_teachers(batch)]


def on_gpu(folder: Path, **options: Any) -> Any:
    """Return a distiller on the GPU, whose teachers' entries have these options."""
    methods = dict(kd=dict(type='SoftTarget'), hint=METHODS['Hint'])
    teachers = tiny.teachers(folder, 2, **options)
    return tiny.distiller(folder, teachers=teachers, methods=methods).cuda().train()


def largest_difference(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest value of each output."""
    return max(
        float((one[name].float() - value).abs().max() / value.abs().max())
        for one, other in zip(found, expected, strict=True)
        for name, value in other.items()
    )


@pytest.mark.parametrize('offload', [False, True])
def test_fast_teacher_on_gpu_outputs_what_the_plain_one_does(tmp_path: Path, offload: bool) -> None:
    plain = outputs_of(on_gpu(tmp_path, fast=False))
    model = on_gpu(tmp_path, offload=offload)
    for _ in range(3):  # the first call makes the trial on this device
        assert largest_difference(outputs_of(model), plain) < 1e-5
    forms = [teacher.fast_form for teacher in model.teachers]
    assert all(form.pairs and form.device.type == 'cuda' for form in forms)


@pytest.mark.parametrize(('precision', 'bound'), [('fp16', 1e-2), ('bf16', 8e-2), ('fp32', 1e-5)])
def test_precision_of_a_teacher_on_gpu(tmp_path: Path, precision: str, bound: float) -> None:
    plain = outputs_of(on_gpu(tmp_path, fast=False))
    with torch.autocast('cuda', torch.float16):
        found = outputs_of(on_gpu(tmp_path, precision=precision))
    assert all(value.dtype == torch.float32 for one in found for value in one.values())
    assert largest_difference(found, plain) < bound
    if precision != 'fp32':
        assert largest_difference(found, plain) > 1e-5  # it did run in half precision


def test_idle_teachers_take_no_memory_of_the_gpu(tmp_path: Path) -> None:
    model = on_gpu(tmp_path, offload=True)
    outputs_of(model)
    networks = [teacher.model for teacher in model.teachers]
    assert {p.device.type for network in networks for p in network.parameters()} == {'cpu'}
    fused = [pair.weight for teacher in model.teachers for pair in teacher.fast_form.pairs]
    assert fused and {weight.device.type for weight in fused} == {'cpu'}
    before = torch.cuda.memory_allocated()
    outputs_of(model)
    assert torch.cuda.memory_allocated() == before


def test_teacher_that_is_not_finite_on_gpu_is_named_one_step_later(tmp_path: Path) -> None:
    model = on_gpu(tmp_path)
    outputs_of(model)
    with torch.no_grad():
        model.teachers[1].model.head.fc.weight.fill_(float('nan'))
    outputs_of(model)
    with raises_config_error('teachers[1] (t1)', 'class scores', fix='precision'):
        outputs_of(model)


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_stored_teachers_on_gpu_output_what_was_written(tmp_path: Path, dtype: str) -> None:
    loader = dict(
        batch_size=8,
        num_workers=0,
        dataset=dict(type='mmkd_plugin.ReplayedDataset', views=2, dataset=dict(type='TinyImages')),
        sampler=dict(type='mmkd_plugin.ReplaySampler', shuffle=True),
    )
    entries = tiny.teachers(tmp_path, 2)
    for index, entry in enumerate(entries):
        entry['replay'] = dict(path=str(tmp_path / f'store{index}'), dtype=dtype)
    config = tiny.distiller_config(
        tmp_path, teachers=entries, methods=dict(kd=dict(type='SoftTarget'), a=tiny.amtml())
    )
    weights = []
    for name in ('filled', 'read'):
        run = tiny.runner(
            copy.deepcopy(config),
            tmp_path / name,
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=2),
            randomness=dict(seed=3, deterministic=True),
        )
        run.train()
        assert next(run.model.parameters()).is_cuda
        assert all(one.stored for one in run.model.teachers) == (name == 'read')
        weights.append(tiny.weights_of(run.model))
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_scheduled_weight_and_gradient_norms_on_gpu(tmp_path: Path) -> None:
    stops = dict(type='LinearSchedule', start=1.0, stop=0.0, end=2, by_epoch=False)
    methods = dict(hint={**METHODS['Hint'], 'loss_weight': stops})
    config = tiny.distiller_config(tmp_path, methods=methods)
    hook = dict(type='mmkd_plugin.LogGradientNorms', interval=1)
    run = tiny.runner(config, tmp_path / 'run', 4, custom_hooks=[hook])
    run.train()
    assert all(value.isfinite().all() for value in run.model.parameters())
