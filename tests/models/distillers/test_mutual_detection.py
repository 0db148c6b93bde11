"""Detectors that learn from each other: steps, predictions, what cannot be compared."""

import copy
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import mmcv.ops
import pytest
import torch
from helpers import classification, detection
from helpers.errors import raises_config_error
from helpers.forbid import forbid
from mmengine.logging import MMLogger
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.engine.optim_wrappers import PeerOptimWrappers
from mmkd_plugin.models.distillers import MutualDistiller
from mmkd_plugin.models.distillers.peer import Peer
from mmkd_plugin.outputs import ClassScores, NetworkOutput

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
    """Build two peers of one family, in training mode, unless changed."""
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
        (
            'retinanet',
            'alternating',
            {**SCORES, **MAPS},
            {'a.kd.loss_kd', 'b.ie.loss_inherit', 'auxiliary_a.ie.loss_rec'},
        ),
        ('gfl', 'simultaneous', SCORES, {'a.kd.loss_kd', 'b.kd.loss_kd', 'a.task.loss_dfl'}),
        ('faster_rcnn', 'alternating', MAPS, {'a.ie.loss_inherit', 'b.task.loss_rpn_cls'}),
    ],
)
def test_mutual_step_of_detectors_trains_every_parameter(
    family: str, order: str, methods: dict[str, Any], logged: set[str]
) -> None:
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
    # levels without a box train neither
    no_box = ('.scale', 'fpn_convs.4.conv.weight', 'fpn_convs.4.conv.bias')
    assert not [name for name in still if not name.endswith(no_box)]
    if 'kd' in methods:
        assert found['a.kd.loss_kd'] > 0 and found['b.kd.loss_kd'] > 0


@pytest.mark.parametrize(
    ('family', 'order', 'expected'), [('fcos', 'alternating', 'ba'), ('gfl', 'simultaneous', '')]
)
def test_mutual_step_runs_a_peer_for_the_others_at_least_cost(
    family: str, order: str, expected: str
) -> None:
    """No assigner, sampler, loss, prior, decoding or NMS runs for the others.

    In simultaneous order the forward of its own step is used.
    """
    model = built(family, order=order)
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=1e-3)))(model)
    observed: list[str] = []
    observe = Peer.observe

    def watched(peer: Peer, *args: Any) -> NetworkOutput:
        observed.append(peer.name)
        head: Any = peer.network.bbox_head
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
            output = observe(peer, *args)
        assert isinstance(output.scores, ClassScores)
        assert not output.scores.logits.requires_grad
        return output

    with patch.object(Peer, 'observe', watched):
        logged = model.train_step(copy.deepcopy(detection.batch_for(family)), wrappers)
    assert observed == list(expected)
    assert logged['a.kd.loss_kd'] > 0 and logged['b.kd.loss_kd'] > 0


def test_mutual_detectors_predict_each_alone_and_have_no_ensemble() -> None:
    model = built('retinanet', predict='b').eval()
    raw = detection.batch_for('retinanet')
    predictions = model.predictions(raw)
    assert list(predictions) == ['a', 'b'] and not model.can_average
    [first, _], [again, _] = predictions['b'], model.val_step(copy.deepcopy(raw))
    assert torch.equal(first.pred_instances.scores, again.pred_instances.scores)
    with raises_config_error('predict', 'ensemble', "['a', 'b']"):
        built('retinanet', predict='ensemble')


def test_mutual_detectors_with_class_scores_of_their_own_regions_raise() -> None:
    with raises_config_error('peers[0] (a)', 'FasterRCNN', 'regions', fix='methods on taps alone'):
        built('faster_rcnn')


def test_mutual_detectors_with_a_classifier_among_them_raise() -> None:
    peers = [
        dict(name='a', model=detection.detector('retinanet')),
        dict(name='b', model=classification.classifier()),
    ]
    with raises_config_error('peers[1] (b)', 'classification', 'detection', 'peers[0] (a)'):
        built('retinanet', peers=peers)


def test_peers_that_output_no_class_yet_learn_from_labels_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the start a focal loss makes everything background: no frozen teacher may be so."""
    model = built('retinanet')
    for peer in model.all_peers():
        torch.nn.init.constant_(peer.network.bbox_head.retina_cls.weight, 0.0)
        torch.nn.init.constant_(peer.network.bbox_head.retina_cls.bias, -5.0)
    wrappers = PeerOptimWrappers(dict(optimizer=dict(type='SGD', lr=0.1)))(model)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        found = model.train_step(copy.deepcopy(detection.batch_for('retinanet')), wrappers)
    finally:
        logger.removeHandler(caplog.handler)
    assert found['a.kd.loss_kd'] == 0 and found['a.task.loss_cls'] > 0
    assert 'nothing would be distilled until its peers output classes' in caplog.text
