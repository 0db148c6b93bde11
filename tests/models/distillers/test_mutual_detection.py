"""Detectors that learn from each other."""

import copy
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import mmcv.ops
import pytest
import torch
from helpers import detection
from helpers.forbid import forbid
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.engine.optim_wrappers import PeerOptimWrappers
from mmkd_plugin.models.distillers import MutualDistiller
from mmkd_plugin.models.distillers.mutual_step import MutualStep
from mmkd_plugin.outputs import ClassScores

SCORES = dict(kd=dict(type='SoftTarget', temperature=2.0))
MAPS = dict(
    ie=dict(
        type='IEKD',
        pairs=[dict(student='neck[0]', teacher='neck[0]')],
        encoder=dict(norm='gn'),
        reduction='size_invariant',
    )
)


def built(family: str, **changes: Any) -> MutualDistiller:
    peers = [dict(name=name, model=detection.detector(family)) for name in 'ab']
    model = ROOT_MODELS.build(
        {**dict(type='mmkd_plugin.MutualDistiller', peers=peers, methods=SCORES), **changes}
    )
    for seed, name in enumerate('ab'):
        detection.varied(model.network(name), seed)
    return model.train()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('family', 'order', 'methods', 'logged'),
    [
        ('retinanet', 'alternating', {**SCORES, **MAPS}, {'a.kd.loss_kd', 'b.ie.loss_inherit', 'apart_a.ie.loss_rec'}),
        ('gfl', 'simultaneous', SCORES, {'a.kd.loss_kd', 'b.kd.loss_kd', 'a.task.loss_dfl'}),
        ('faster_rcnn', 'alternating', MAPS, {'a.ie.loss_inherit', 'b.task.loss_rpn_cls'}),
    ],
)  # fmt: skip
def test_one_step(family: str, order: str, methods: dict[str, Any], logged: set[str]) -> None:
    model = built(family, order=order, methods=methods)
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=0.1)))(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    found = model.train_step(copy.deepcopy(detection.batch_for(family)), wrappers)
    assert logged < found.keys()
    assert all(torch.as_tensor(value).isfinite().all() for value in found.values())
    still = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and torch.equal(p, before[name])
    ]
    alone = (
        '.scale',
        'fpn_convs.4.conv.weight',
        'fpn_convs.4.conv.bias',
    )  # of levels without a box
    assert not [name for name in still if not name.endswith(alone)]
    if 'kd' in methods:
        assert found['a.kd.loss_kd'] > 0 and found['b.kd.loss_kd'] > 0


@pytest.mark.parametrize(
    ('family', 'order', 'asks'), [('fcos', 'alternating', 'ba'), ('gfl', 'simultaneous', '')]
)
def test_a_peer_that_is_asked_does_a_teachers_work_alone(
    family: str, order: str, asks: str
) -> None:
    """No assigner, sampler, loss, prior, decoding or NMS; in simultaneous order what its own step computed has to do."""
    model = built(family, order=order)
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=1e-3)))(model)
    asked: list[str] = []
    ask = MutualStep._ask

    def watched(step: MutualStep, peer: Any) -> Any:
        asked.append(peer.name)
        head = peer.network.bbox_head
        with ExitStack() as stack:
            forbid(stack, peer.network, 'forward', 'loss', 'predict', '_forward')
            forbid(stack, head, 'loss', 'loss_by_feat', 'predict', 'predict_by_feat', 'get_targets')
            forbid(
                stack,
                head.prior_generator,
                'grid_priors',
                'valid_flags',
                'single_level_grid_priors',
            )
            for part, work in dict(
                assigner='assign', sampler='sample', loss_cls='forward', loss_bbox='forward'
            ).items():
                forbid(stack, getattr(head, part, None), work)
            forbid(stack, mmcv.ops, 'nms', 'batched_nms')
            said = ask(step, peer)
        assert isinstance(said.logits, ClassScores) and not said.logits.logits.requires_grad
        return said

    with patch.object(MutualStep, '_ask', watched):
        logged = model.train_step(copy.deepcopy(detection.batch_for(family)), wrappers)
    assert asked == list(asks)
    assert logged['a.kd.loss_kd'] > 0 and logged['b.kd.loss_kd'] > 0


def test_each_predicts_and_there_is_no_ensemble() -> None:
    model = built('retinanet', predict='b').eval()
    raw = detection.batch_for('retinanet')
    answers = model.answers(raw)
    assert list(answers) == ['a', 'b'] and not model.can_average
    [first, _], [again, _] = answers['b'], model.val_step(copy.deepcopy(raw))
    assert torch.equal(first.pred_instances.scores, again.pred_instances.scores)
    with pytest.raises(
        ValueError, match=r"^predict: expected one of \['a', 'b'\], got 'ensemble' of models whose"
    ):
        built('retinanet', predict='ensemble')


def test_scores_of_regions_that_each_chooses_itself() -> None:
    message = r'^peers\[0\] \(a\): expected .* got FasterRCNN, .*: use methods on taps alone$'
    with pytest.raises(ValueError, match=message):
        built('faster_rcnn')


def test_a_classifier_among_detectors() -> None:
    from tiny import classifier

    peers = [
        dict(name='a', model=detection.detector('retinanet')),
        dict(name='b', model=classifier()),
    ]
    with pytest.raises(
        ValueError,
        match=r'^peers\[1\] \(b\): expected a model for detection, as the first peer is, got one',
    ):
        built('retinanet', peers=peers)
