"""Methods on feature maps of detectors, and mutual learning of detectors."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import raises_config_error
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

LAST, LEVEL = 'backbone[3]', 'neck[0]'
#: The one ReLU in the last block of ResNet-18 runs twice; the map before its second run is tapped.
BEFORE_RELU = dict(
    student='backbone.layer4.1.relu#1:input',
    teacher='backbone.layer4.1.relu#1:input',
    norm='backbone.layer4.1.bn2',
)
METHODS = ('ie_ft', 'ie_at', 'ie_od', 'ft', 'at', 'od', 'hint')


def paraphraser(folder: Path, teacher: dict[str, Any], tap: str) -> str:
    """Train a paraphraser for one step on a batch of scenes; return its checkpoint."""
    trainer = ROOT_MODELS.build(
        dict(type='mmkd_plugin.ParaphraserTrainer', teacher=teacher, tap=tap)
    )
    optimizer = torch.optim.SGD(trainer.parameters(), lr=0.1)
    losses = small.losses_of(trainer, small.batch_for('retinanet'))
    losses['loss_rec'].backward()
    optimizer.step()
    predicted = trainer(
        **trainer.data_preprocessor(small.batch_for('retinanet'), False), mode='predict'
    )
    assert len(predicted) == 2, 'predictions are those of the detector'
    path = folder / f'paraphraser_{tap}.pth'
    torch.save(dict(state_dict=trainer.state_dict()), path)
    return str(path)


def method(name: str, folder: Path, teacher: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the config of one of :data:`METHODS`."""
    pairs = [dict(student=tap, teacher=tap) for tap in (LAST, LEVEL)]
    if name.endswith('ft'):
        pairs = [
            dict(pair, checkpoint=paraphraser(folder, teacher, pair['teacher'])) for pair in pairs
        ]
    if name.endswith('od'):
        pairs = [BEFORE_RELU]
    kinds = dict(ft='FactorTransfer', at='AttentionTransfer', od='Overhaul', hint='Hint')
    knowledge = dict(ie_ft='factor', ie_at='attention', ie_od='overhaul')
    if name in knowledge:
        return dict(
            type='IEKD',
            pairs=pairs,
            knowledge=knowledge[name],
            reduction='size_invariant',
            **changes,
        )
    return dict(type=kinds[name], pairs=pairs, **changes)


@pytest.mark.parametrize('name', METHODS)
def test_method_on_maps_trains_a_detector(name: str, tmp_path: Path) -> None:
    config = small.detector('retinanet')
    teacher = small.teacher(tmp_path, config)
    model = small.distiller(
        tmp_path, config, [teacher], methods=dict(maps=method(name, tmp_path, teacher))
    )
    losses = small.losses_of(model, small.batch_for('retinanet'))
    parts = [value for key, value in losses.items() if key.startswith('maps.loss')]
    assert parts and all(part.isfinite() and part != 0 for part in parts)
    sum(parts).backward()
    assert model.student.backbone.layer4[1].conv1.weight.grad.abs().sum() > 0
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in model.methods.parameters()
        if p.requires_grad
    )
    assert not any(p.grad is not None for p in model.teachers[0].model.parameters())


def test_ie_kd_with_size_invariant_reduction_does_not_shrink_as_images_grow(tmp_path: Path) -> None:
    """With the mean of the paper, maps with four times the locations have half the loss."""
    config = small.detector('retinanet')
    teacher = small.teacher(tmp_path, config)
    losses: dict[tuple[str, int], Tensor] = {}
    made = method('ie_ft', tmp_path, teacher)
    for reduction in ('mean', 'size_invariant'):
        model = small.distiller(
            tmp_path, config, [teacher], methods=dict(ie=dict(made, reduction=reduction))
        )
        model.eval()  # encoders without batch statistics: the same function of every size
        for side in (128, 256):
            batch = small.batch_of([small.sample([[8, 8, 40, 40]], [0], (side, side))])
            losses[reduction, side] = small.losses_of(model, batch)['ie.loss_inherit'].detach()
    assert 0.4 < losses['mean', 256] / losses['mean', 128] < 0.65
    assert 0.8 < losses['size_invariant', 256] / losses['size_invariant', 128] < 1.3


@pytest.mark.parametrize('family', ['gfl', 'yolox', 'ssdlite', 'detr'])
def test_methods_under_bfloat16_autocast_compute_losses_in_float32(
    family: str, tmp_path: Path
) -> None:
    """Two-stage detectors are missing: NMS and RoIAlign of mmcv have no bfloat16 on CPU."""
    pairs = [dict(student=LEVEL, teacher=LEVEL)]
    methods = dict(
        kd=dict(type='SoftTarget', temperature=2.0),
        amtml=dict(
            type='AMTMLKD', student_groups=['backbone[-1]'], teacher_taps=LEVEL, mapping=[0]
        ),
        ie=dict(type='IEKD', knowledge='attention', reduction='size_invariant', pairs=pairs),
    )
    if family == 'detr':
        methods = dict(ie=methods['ie'], hint=dict(type='Hint', pairs=pairs))
    model = small.distiller(tmp_path, small.detector(family), methods=methods)
    exact = small.losses_of(model, small.batch_for(family))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = small.losses_of(model, small.batch_for(family))
    parts = {
        name: value
        for name, value in losses.items()
        if 'loss' in name and not name.startswith('task')
    }
    assert {name.split('.')[0] for name in parts} == set(methods)
    for name, value in parts.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=0.25, abs=0.05), name
    small.total(model, losses).backward()
    torch.optim.SGD(model.parameters(), lr=1e-5).step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(('objective', 'read'), [('paper', 1), ('label', 1), (None, 0)])
def test_distiller_of_detectors_makes_labels_only_if_a_method_requests_them(
    objective: str | None, read: int, tmp_path: Path
) -> None:
    methods: dict[str, Any] = dict(kd=dict(type='SoftTarget'))
    if objective is not None:
        methods['amtml'] = dict(type='AMTMLKD', objective=objective, hint_weight=0.0)
    model = small.distiller(tmp_path, small.detector('gfl'), methods=methods)
    adapter = model.tapped.adapter
    with patch.object(adapter, 'labels', wraps=adapter.labels) as labels:
        small.losses_of(model, small.batch_for('gfl'))
    assert labels.call_count == read


def mutual(family: str, order: str = 'alternating', **methods: Any) -> Any:
    """Build two peers of one family, ready to train."""
    config = small.detector(family)
    peers = [dict(name=name, model=config) for name in 'ab']
    model = ROOT_MODELS.build(
        dict(type='mmkd_plugin.MutualDistiller', peers=peers, methods=methods, order=order)
    )
    for seed, name in enumerate('ab'):
        small.varied(model.network(name), seed)
    return model.train()


def optimizers(model: Any) -> OptimWrapperDict:
    """Build one optimizer for each part that is trained together."""
    parts = model.trained_together().items()
    return OptimWrapperDict(
        **{name: OptimWrapper(torch.optim.SGD(one.parameters(), lr=1e-3)) for name, one in parts}
    )


@pytest.mark.parametrize(
    ('family', 'order'), [('gfl', 'alternating'), ('faster_rcnn', 'simultaneous')]
)
def test_mutual_detectors_with_ie_kd_train_networks_methods_and_paraphrasers(
    family: str, order: str
) -> None:
    """IE-DML compares maps alone, so detectors of any family do."""
    pairs = [dict(student=LEVEL, teacher=LEVEL)]
    model = mutual(family, order, ie=dict(type='IEKD', pairs=pairs, reduction='size_invariant'))
    before = tiny.weights_of(model)
    logged = model.train_step(small.batch_for(family), optimizers(model))
    assert {
        f'{name}.ie.{loss}' for name in 'ab' for loss in ('loss_inherit', 'loss_explore')
    } <= logged.keys()
    assert all(value.isfinite().all() for value in logged.values())
    moved = {
        tuple(name.split('.')[:3])
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    parts = ('network', 'methods', 'auxiliary')
    assert {('peers', name, part) for name in 'ab' for part in parts} <= moved


@pytest.mark.parametrize('order', ['alternating', 'simultaneous'])
def test_mutual_dense_detectors_learn_from_class_scores_in_either_order(order: str) -> None:
    model = mutual('gfl', order, dml=dict(type='SoftTarget', temperature=1.0))
    logged = model.train_step(small.batch_for('gfl'), optimizers(model))
    assert logged['a.dml.loss_kd'] > 0 and logged['b.dml.loss_kd'] > 0


def test_mutual_detectors_with_predict_ensemble_raise() -> None:
    peers = [small.detector('gfl')] * 2
    config = dict(
        type='mmkd_plugin.MutualDistiller', peers=peers, methods=dict(dml=dict(type='SoftTarget'))
    )
    with raises_config_error('predict', 'ensemble', 'averaged'):
        ROOT_MODELS.build(dict(config, predict='ensemble'))
