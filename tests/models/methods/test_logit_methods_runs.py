"""DIST, DKD, NKD and standardised soft targets in distillers: training, labels, small batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS as ROOT_MODELS

LATENT = dict(type='LatentTeacherWeighting')

RUNS: dict[str, dict[str, Any]] = dict(
    dist=dict(type='DIST'),
    dkd=dict(type='DKD', beta=2.0),
    nkd=dict(type='NKD'),
    hard=dict(type='HardTarget', weighting=LATENT),
    hard_mean=dict(type='HardTarget'),
    standardised=dict(type='SoftTarget', standardize=True),
    learned=dict(type='DKD', weighting=LATENT),
    amtml_hard=tiny.amtml(soft_target=dict(type='HardTarget', min_confidence=0.3)),
    amtml_dist=tiny.amtml(soft_target=dict(type='DIST')),
    amtml_nkd=tiny.amtml(soft_target=dict(type='NKD'), objective='label', standardize=True),
)


@pytest.mark.parametrize('name', RUNS)
def test_method_trains_a_student(name: str, tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(m=RUNS[name]), task_weight=0.0).train()
    losses = tiny.losses_of(model)
    torch.stack([value for key, value in losses.items() if 'loss' in key]).sum().backward()
    for key, parameter in tiny.parameters_of(model):
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert any(p.grad.any() for p in model.student.parameters())


@pytest.mark.parametrize('name', ['dist', 'dkd', 'nkd', 'hard_mean', 'standardised'])
def test_method_trains_peers(name: str) -> None:
    model = ROOT_MODELS.build(tiny.mutual_config(methods=dict(m=RUNS[name]), task_weight=0.0))
    before = tiny.weights_of(model)
    sgd = {
        peer: torch.optim.SGD(one.network.parameters(), 0.1) for peer, one in model.peers.items()
    }
    wrappers = OptimWrapperDict(**{peer: OptimWrapper(one) for peer, one in sgd.items()})
    losses = model.train().train_step(tiny.batch_of(), wrappers)
    parts = {key: value for key, value in losses.items() if 'm.loss' in key}
    assert len(parts) == 2 and all(value > 0 for value in parts.values()), losses.keys()
    moved = {key.split('.')[1] for key in tiny.differing(before, tiny.weights_of(model))}
    assert moved == {'a', 'b'}


def test_dist_of_one_image_is_zero_and_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(
        'mmkd_plugin.models.methods.dist.print_log', lambda text, **_: logged.append(text)
    )
    model = tiny.distiller(tmp_path, methods=dict(m=dict(type='DIST'))).train()
    for _ in range(3):
        loss = tiny.losses_of(model, tiny.batch_of(1))['m.loss_dist']
        assert loss.item() == 0.0 and loss.requires_grad
    assert len(logged) == 1 and 'fewer than two rows' in logged[0]
    assert tiny.losses_of(model)['m.loss_dist'] > 0


@pytest.mark.parametrize('kind', ['DKD', 'NKD'])
def test_mixed_labels_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=dict(m=dict(type=kind))).train()
    batch = tiny.batch_of(4)
    for sample in batch['data_samples']:
        sample.set_gt_score(torch.tensor([0.5, 0.5, 0.0, 0.0]))
    with raises_config_error('methods.m', (4, 4), 'Mixup', fix="'DIST'"):
        tiny.losses_of(model, batch)


def test_dkd_is_warmed_up_by_a_schedule(tmp_path: Path) -> None:
    warm_up = dict(type='LinearSchedule', start=0.05, stop=1.0, end=19)
    methods = dict(m=dict(type='DKD', loss_weight=warm_up))
    model = tiny.distiller(tmp_path, methods=methods).eval()
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', 0)
    found = []
    for epoch in (0, 4, 19, 30):
        hub.update_info('epoch', epoch)
        found.append(tiny.losses_of(model)['m.loss_dkd'].item())
    assert found[0] > 0
    expected = [1 / 20, 5 / 20, 1.0, 1.0]
    assert [one / found[-1] for one in found] == pytest.approx(expected, rel=1e-5)
