"""Training on a GPU gives what training on the CPU gives. These tests need a GPU."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.engine import PeerOptimWrappers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')

MAP = 'backbone.layer3'
PAIRS = [dict(student=MAP, teacher=MAP)]
METHODS: dict[str, dict[str, Any]] = {
    'SoftTarget': dict(type='SoftTarget'),
    'LogitMimic': dict(type='LogitMimic'),
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


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """Multiply in float32, not in TF32."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in settings]
    for one in settings:
        one.allow_tf32 = False
    yield
    for one, value in zip(settings, before, strict=True):
        one.allow_tf32 = value


@pytest.mark.parametrize('name', METHODS)
def test_distiller_on_gpu_has_the_losses_and_gradients_of_the_cpu(
    tmp_path: Path, name: str
) -> None:
    model = tiny.distiller(tmp_path, methods=dict(m=METHODS[name])).double().train()
    for teacher in model.teachers:
        teacher.model.double()
    model.data_preprocessor = _Double(model.data_preprocessor)
    found = {}
    for device in ('cpu', 'cuda'):
        copied = copy.deepcopy(model).to(device)
        total, logged = copied.parse_losses(tiny.losses_of(copied))
        total.backward()
        gradients = [p.grad.cpu() for p in copied.parameters() if p.grad is not None]
        found[device] = {k: v.cpu() for k, v in logged.items()}, gradients
    torch.testing.assert_close(found['cuda'], found['cpu'], rtol=1e-6, atol=1e-9)


class _Double(torch.nn.Module):
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
    model = tiny.distiller(tmp_path, methods=dict(METHODS)).cuda().train()
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
