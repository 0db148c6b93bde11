"""LD: the values of MMDet's LDHead, the valuable region, and refusals."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import detection as small
from helpers.box_loops import atss_threshold, diou, iou
from helpers.classification import built
from helpers.errors import raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from mmkd_plugin.engine import PeerOptimWrappers
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods import LD
from mmkd_plugin.outputs import BoxOutputs, ClassScores, NetworkOutput

METHODS = dict(ld=dict(type='LD', temperature=10.0, loss_weight=0.25))
VALUABLE = dict(ld=dict(type='LD', loss_weight=0.0, vlr_weight=0.5, gamma=0.3))


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


@pytest.mark.parametrize('methods', [METHODS, VALUABLE])
def test_peers_give_each_other_their_distributions(methods: Any) -> None:
    init_default_scope('mmdet')
    peers = [dict(name=name, model=small.detector('gfl')) for name in 'ab']
    config = dict(type='mmkd_plugin.MutualDistiller', peers=peers, methods=methods)
    model = ROOT_MODELS.build(config).train()
    for seed, peer in enumerate(model.peers.values()):
        small.varied(peer.network, seed)
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=0.001)))(model)
    logged = model.train_step(small.batch_for('gfl'), wrappers)
    losses = [value for name, value in logged.items() if '.ld.loss_ld' in name]
    assert len(losses) == 2 and min(losses) > 0


def two_paddings() -> dict[str, Any]:
    """Return a batch whose second image ends at row 64 with its own padding, and at 96 without."""
    boxes = [[8.3, 7.1, 41.9, 52.6], [30.2, 21.7, 80.4, 60.9]]
    high = small.sample(boxes, [0, 2], (96, 96))
    low = small.sample([[12.4, 9.3, 61.7, 39.2], [50.6, 20.2, 90.1, 36.3]], [1, 0], (40, 96))
    return small.batch_of([high, low])


def loss_of_loops(
    model: Any, raw: Any, gamma: float, areas: str = 'pad_shape'
) -> tuple[float, list[int]]:
    """Return the loss of the region by loops over images, anchors, sides and bins in float64.

    Also returns the number of locations of the region by image.
    """
    batch = model.data_preprocessor(copy.deepcopy(raw), True)
    with torch.no_grad():
        outputs = [
            net.bbox_head(net.extract_feat(batch['inputs']))[1]
            for net in (model.student, model.teachers[0].model)
        ]
    rows = [
        torch.cat([one.permute(0, 2, 3, 1).flatten(1, 2) for one in maps], 1).double()
        for maps in outputs
    ]
    head = model.student.bbox_head
    sizes = [tuple(one.shape[2:]) for one in outputs[0]]
    metas = [sample.metainfo for sample in batch['data_samples']]
    metas = [dict(meta, pad_shape=meta[areas]) for meta in metas]
    anchors, flags = head.get_anchors(sizes, metas, device='cpu')
    total, counts = 0.0, []
    for n, sample in enumerate(batch['data_samples']):
        whole = torch.cat(anchors[n]).double().tolist()
        kept = torch.cat(flags[n]).nonzero().flatten().tolist()
        levels = [int(one.sum()) for one in flags[n]]
        objects = sample.gt_instances.bboxes.double().tolist()
        found = [whole[a] for a in kept]
        limits = [atss_threshold(found, levels, box) for box in objects]
        counts.append(0)
        for a in kept:
            pairs = zip(objects, limits, strict=True)
            of = [iou(whole[a], b) for b, t in pairs if gamma * t <= diou(whole[a], b) < t]
            if not of:
                continue
            counts[-1] += 1
            student, teacher = (one[n, a].view(4, 17) / 10.0 for one in rows)
            for s, t in zip(student.softmax(1).tolist(), teacher.softmax(1).tolist(), strict=True):
                divergence = sum(q * math.log(q / p) for p, q in zip(s, t, strict=True))
                total += max(of) * 10.0**2 * divergence / 17 / 16
    return total, counts


def test_loss_of_the_valuable_region_is_that_of_loops(tmp_path: Path) -> None:
    model = small.distiller(tmp_path, small.detector('gfl'), methods=VALUABLE).train()
    raw = two_paddings()
    found = small.losses_of(model, raw)
    assert 'ld.loss_ld' not in found
    expected, counts = loss_of_loops(model, raw, 0.3)
    assert min(counts) >= 3
    assert found['ld.loss_ld_vlr'].item() == pytest.approx(0.5 * expected, rel=1e-4)
    other, fewer = loss_of_loops(model, raw, 0.3, areas='img_shape')  # the padding counts
    assert fewer != counts and other != pytest.approx(expected, rel=1e-3)
    found['ld.loss_ld_vlr'].backward()
    head = model.student.bbox_head
    assert head.gfl_reg.weight.grad.any() and head.gfl_cls.weight.grad is None


def test_both_regions_are_two_losses_and_the_first_stays_as_it_was(tmp_path: Path) -> None:
    raw, detector = small.batch_for('gfl'), small.detector('gfl')
    teacher = small.teacher(tmp_path, detector)
    found = {}
    for name, changes in dict(first={}, second=dict(vlr_weight=0.25)).items():
        methods = dict(ld=dict(METHODS['ld'], **changes))
        model = small.distiller(tmp_path, detector, [teacher], methods=methods).train()
        found[name] = small.losses_of(model, raw)
    assert 'ld.loss_ld_vlr' not in found['first']
    assert found['second']['ld.loss_ld_vlr'] > 0
    assert found['second']['ld.loss_ld'].item() == found['first']['ld.loss_ld'].item()


def test_valuable_region_needs_no_assigner_and_no_objects(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    model = small.distiller(tmp_path, detector, methods=VALUABLE, task_weight=0.0).train()
    raw = small.batch_for('gfl')
    assert small.losses_of(model, copy.deepcopy(raw))['ld.loss_ld_vlr'] > 0
    for sample in raw['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    loss = small.losses_of(model, raw)['ld.loss_ld_vlr']
    assert loss.item() == 0.0
    loss.backward()


@pytest.mark.parametrize(
    ('key', 'value'), [('gamma', 1.0), ('gamma', -0.1), ('vlr_weight', -1.0), ('topk', 0)]
)
def test_number_out_of_range_is_refused(key: str, value: float) -> None:
    with raises_config_error(key, value):
        LD(**{key: value})


def test_region_of_a_head_without_anchors_is_refused() -> None:
    levels = ((2, 3, 1),)
    boxes = BoxOutputs(torch.zeros(1, 6, 4, 5), 'distribution', levels=levels)
    output = NetworkOutput(ClassScores(torch.zeros(1, 6, 2), 'sigmoid', levels=levels), boxes=boxes)
    built(LD(), output, [output])
    with raises_config_error('vlr_weight', 0.25, 'points', fix='0'):
        built(LD(vlr_weight=0.25), output, [output])


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
