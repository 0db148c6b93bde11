"""LD: the values of MMDet's LDHead, and refusals."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import detection as small
from helpers.errors import raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from mmkd_plugin.engine import PeerOptimWrappers
from mmkd_plugin.errors import ConfigError

METHODS = dict(ld=dict(type='LD', temperature=10.0, loss_weight=0.25))


def stock_losses(student: Any, teacher: Any, config: Any, raw: Any) -> dict[str, Any]:
    """Return the losses of MMDet's own LDHead with the student's weights."""
    init_default_scope('mmdet')
    config = copy.deepcopy(config)
    config.bbox_head.update(
        type='LDHead',
        loss_ld=dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10),
    )
    network = ROOT_MODELS.build(config)
    network.load_state_dict(student.state_dict())
    network.train()
    batch = network.data_preprocessor(copy.deepcopy(raw), True)
    with torch.no_grad():
        targets = teacher.bbox_head(teacher.extract_feat(batch['inputs']))
    return network.bbox_head.loss(
        network.extract_feat(batch['inputs']), targets, batch['data_samples']
    )


@pytest.mark.parametrize('number', [1, 2])
def test_loss_is_that_of_the_stock_head(number: int, tmp_path: Path) -> None:
    detector = small.detector('gfl')
    model = small.distiller(tmp_path, detector, methods=METHODS).train()
    raw = small.batch_for('gfl')
    raw = {name: value[:number] for name, value in raw.items()}
    found = small.losses_of(model, copy.deepcopy(raw))
    expected = stock_losses(model.student, model.teachers[0].model, detector, raw)
    total = sum(expected['loss_ld']).item()
    assert total > 0
    assert found['ld.loss_ld'].item() == pytest.approx(total, rel=1e-5)
    for name in ('loss_cls', 'loss_bbox', 'loss_dfl'):  # the student's own losses are the same
        own = sum(found[f'task.{name}']).item()
        assert own == pytest.approx(sum(expected[name]).item(), rel=1e-5)


def test_gradient_reaches_the_student_and_the_head_is_as_before(tmp_path: Path) -> None:
    model = small.distiller(tmp_path, small.detector('gfl'), methods=METHODS).train()
    before = dict(vars(model.student.bbox_head))
    found = small.losses_of(model, small.batch_for('gfl'))
    found['ld.loss_ld'].backward()
    head = model.student.bbox_head
    assert head.gfl_reg.weight.grad.any() and head.gfl_cls.weight.grad is None
    assert vars(head).keys() == before.keys() and 'get_targets' not in vars(head)
    assert all(one.grad is None for one in model.teachers[0].model.parameters())


def test_images_without_objects_have_no_loss(tmp_path: Path) -> None:
    model = small.distiller(tmp_path, small.detector('gfl'), methods=METHODS).train()
    raw = small.batch_for('gfl')
    small.losses_of(model, copy.deepcopy(raw))
    for sample in raw['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    loss = small.losses_of(model, raw)['ld.loss_ld']
    assert loss.item() == 0.0
    loss.backward()


def test_peers_give_each_other_their_distributions() -> None:
    init_default_scope('mmdet')
    peers = [dict(name=name, model=small.detector('gfl')) for name in 'ab']
    config = dict(type='mmkd_plugin.MutualDistiller', peers=peers, methods=METHODS)
    model = ROOT_MODELS.build(config).train()
    for seed, peer in enumerate(model.peers.values()):
        small.varied(peer.network, seed)
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=0.001)))(model)
    logged = model.train_step(small.batch_for('gfl'), wrappers)
    assert logged['a.ld.loss_ld'] > 0 and logged['b.ld.loss_ld'] > 0


@pytest.mark.parametrize('family', ['retinanet', 'fcos', 'atss'])
def test_head_without_distributions_is_refused(family: str, tmp_path: Path) -> None:
    with raises_config_error('methods.ld.type', 'LD', 'distributions', fix='BCKD'):
        small.distiller(tmp_path, small.detector(family), methods=METHODS)


def test_other_number_of_bins_is_refused_with_both(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    other = copy.deepcopy(detector)
    other.bbox_head.reg_max = 8
    teacher = small.teacher(tmp_path, other, 1)
    config = dict(
        type='mmkd_plugin.Distiller', student=detector, teachers=[teacher], methods=METHODS
    )
    init_default_scope('mmdet')
    with pytest.raises(ConfigError, match='17') as error:
        ROOT_MODELS.build(config)
    assert '9' in str(error.value)


def test_run_without_the_losses_of_the_student_is_refused(tmp_path: Path) -> None:
    model = small.distiller(
        tmp_path, small.detector('gfl'), methods=METHODS, task_weight=0.0
    ).train()
    with raises_config_error('methods.ld.type', 'LD', fix='task_weight'):
        small.losses_of(model, small.batch_for('gfl'))


def test_stored_teacher_is_refused(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    teacher = dict(small.teacher(tmp_path, detector, 1), replay=dict(path=str(tmp_path / 'store')))
    config = dict(
        type='mmkd_plugin.Distiller', student=detector, teachers=[teacher], methods=METHODS
    )
    init_default_scope('mmdet')
    with raises_config_error('methods.ld.type', 'LD', 'every location', fix='replay'):
        ROOT_MODELS.build(config)
