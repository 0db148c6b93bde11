"""Every kind of MMDet's dense heads: its class scores are those that the head is trained on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import dense_families as families
from helpers import detection as small
from mmdet.registry import MODELS as MMDET_MODELS
from torch import nn

from mmkd_plugin.adapters import TappedModel
from mmkd_plugin.adapters.dense_heads import _logit
from mmkd_plugin.adapters.score_readers import registered_heads
from mmkd_plugin.outputs import NetworkOutput

#: Kinds that have another form in a second config; the first one is tested always.
_MORE = (
    *('tood_anchors', 'foveabox_align', 'decoupled_solo_light', 'ga_rpn', 'nas_fcos'),
    'centripetalnet',
)
EVERY = [
    pytest.param(family, marks=pytest.mark.slow) if family in _MORE else family
    for family in families.FAMILIES
    if family != 'boxinst'
]
#: Heads whose predictions have the scores of classes, and no other factor.
AS_PREDICTED = (
    *('vfnet', 'tood', 'fsaf', 'foveabox', 'yolof', 'yolov3', 'yolact', 'nas_fpn', 'autoassign'),
    *('free_anchor', 'reppoints', 'rpn', 'centernet', 'centernet_update'),
)


def observed(model: nn.Module, batch: Any, boxes: bool = False) -> NetworkOutput:
    net = TappedModel(model, 'network')
    net.request([], scores=True, boxes=boxes)
    with torch.no_grad():
        return net.observe(batch['inputs'], data_samples=batch['data_samples'])


def preprocessed(model: Any, family: str) -> Any:
    return model.data_preprocessor(families.batch_for(family), False)


@pytest.mark.parametrize('family', EVERY)
def test_soft_targets_are_0_for_equal_weights_and_train_the_head_for_others(
    family: str, tmp_path: Path
) -> None:
    """The student runs in training and the teacher in eval mode, as always."""
    model = small.distiller(tmp_path, families.detector(family)).train()
    for module in model.student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # the statistics of the batch are not those of the teacher
    teacher = model.teachers[0].model
    teacher.load_state_dict(model.student.state_dict())
    raw = families.batch_for(family)
    losses = small.losses_of(model, raw)
    assert abs(losses['kd.loss_kd']) < 1e-6
    assert torch.isfinite(small.total(model, losses))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(0.2 * p.abs().mean() * torch.randn(p.shape, generator=generator))
    loss = small.losses_of(model, raw)['kd.loss_kd']
    assert 1e-4 < loss < 100
    loss.backward()
    head = model.student.get_submodule(next(iter(model.tapped.adapter.score_taps)))
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    assert gradients and all(one.isfinite().all() for one in gradients)
    assert any(one.any() for one in gradients)


@pytest.mark.parametrize('family', AS_PREDICTED)
def test_scores_are_those_of_predictions(family: str) -> None:
    model = small.network(families.detector(family)).eval()
    raw = families.batch_for(family)
    for sample in raw['data_samples']:
        sample.set_metainfo(dict(border=(0.0, 96.0, 0.0, 96.0), batch_input_shape=(96, 96)))
    batch = model.data_preprocessor(raw, False)
    scores = observed(model, batch).scores
    assert scores is not None
    known = scores.logits[..., : scores.num_classes]
    full = scores.logits.softmax(-1)[..., :-1] if scores.background else known.sigmoid()
    with torch.no_grad():
        predictions = model(**batch, mode='predict')
    found = torch.cat([one.pred_instances.scores for one in predictions])
    assert len(found) > 0
    distance = (found[:, None] - full.flatten()[None]).abs().amin(dim=1)
    assert distance.max() < 1e-5


def test_yolov3_scores_an_anchor_by_its_own_channels() -> None:
    model = small.network(families.detector('yolov3')).eval()
    batch = preprocessed(model, 'yolov3')
    output = observed(model, batch, boxes=True)
    with torch.no_grad():
        [maps] = model.bbox_head(model.extract_feat(batch['inputs']))
    scores, boxes = output.scores, output.boxes
    assert scores is not None and boxes is not None
    rows, columns, anchors = scores.levels[0]
    assert (anchors, scores.strides[0]) == (3, (32.0, 32.0))
    row, column, anchor = rows - 1, 0, 2
    own = maps[0][1, :, row, column].view(3, 5 + small.CLASSES)[anchor]
    location = (row * columns + column) * anchors + anchor
    expected = own[5:].sigmoid() * own[4].sigmoid()
    torch.testing.assert_close(scores.logits[1, location].sigmoid(), expected)
    assert torch.equal(boxes.values[1, location], own[:4])


def test_corners_are_levels_of_their_own() -> None:
    model = small.network(families.detector('cornernet')).eval()
    batch = preprocessed(model, 'cornernet')
    scores = observed(model, batch).scores
    with torch.no_grad():
        top_left, bottom_right = model.bbox_head(model.extract_feat(batch['inputs']))[:2]
    assert scores is not None and len(scores.levels) == 4
    for level, found in enumerate((*top_left, *bottom_right)):
        locations = scores.logits[0].unflatten(0, (4, -1))[level]
        assert torch.equal(locations, found[0].permute(1, 2, 0).flatten(0, 1))


def test_guided_anchors_of_a_teacher_score_every_location() -> None:
    """In eval mode the host scores one image, and the locations of its anchors alone."""
    model = small.network(families.detector('ga_retinanet')).eval()
    scores = observed(model, preprocessed(model, 'ga_retinanet')).scores
    assert scores is not None and scores.logits.shape[0] == 2
    assert scores.logits.flatten(0, 1).any(dim=1).all()
    assert not any(module.training for module in model.modules())


def test_rpn_has_one_class_for_every_object() -> None:
    model = small.network(families.detector('rpn'))
    adapter = TappedModel(model, 'network').adapter
    samples = families.batch_for('rpn')['data_samples']
    samples.append(small.sample([], [], (96, 96)))
    labels = adapter.labels(samples)
    assert labels is not None and labels.tolist() == [[1.0], [1.0], [0.0]]
    assert adapter.labels(None) is None


def test_boxinst_is_read_as_condinst() -> None:
    """Its preprocessor needs another package; the head does not."""
    config = families.detector('boxinst')
    config.data_preprocessor = dict(type='mmdet.DetDataPreprocessor')
    model = small.network(config).eval()
    output = observed(model, preprocessed(model, 'boxinst'), boxes=True)
    assert output.scores is not None and output.scores.num_classes == small.CLASSES
    assert output.boxes is not None and output.boxes.kind == 'distance'


def test_logit_of_a_probability_is_finite_at_both_ends() -> None:
    probability = torch.tensor([0.0, 1e-30, 0.25, 1.0], requires_grad=True)
    logits = _logit(probability)
    logits.sum().backward()
    assert probability.grad is not None and probability.grad.isfinite().all()
    assert logits.isfinite().all() and logits[0] < -30 and logits[3] > 15
    assert logits[2].item() == pytest.approx(-1.0986, abs=1e-4)
    assert _logit(torch.ones(1, dtype=torch.float16)).dtype == torch.float32


def test_each_registered_head_is_in_a_table_of_the_tests() -> None:
    """A head without a family here would be read without a test."""
    seen = set()
    for family in (*families.FAMILIES, *small.DENSE):
        config = families.detector(family)
        head = config.get('bbox_head') or config.get('rpn_head') or config.mask_head
        seen |= {cls.__name__ for cls in MMDET_MODELS.get(head.type).__mro__}
    assert set(registered_heads('mmdet')) - seen == set()
