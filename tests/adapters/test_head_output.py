"""The output of a score reader is checked against what the head states, before training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS as MMDET_MODELS
from torch import Tensor, nn

from mmkd_plugin.adapters import HeadOutput, TappedModel, register_score_reader, score_readers

IMAGES = torch.zeros(2, 3, 64, 64)


@pytest.fixture(autouse=True)
def _own_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after each test what it registered."""
    monkeypatch.setattr(score_readers, '_READERS', dict(score_readers._READERS))


@MMDET_MODELS.register_module(force=True)
class HalvedHead(RetinaHead):
    """RetinaNet's head with another forward; each test registers another reader."""

    def forward_single(self, x: Tensor) -> Any:
        return super().forward_single(x)


@MMDET_MODELS.register_module(force=True)
class TextHead(RetinaHead):
    """A head that scores the words of a text, as GLIP's."""

    def forward(self, x: Any, words: Any) -> Any: ...


@MMDET_MODELS.register_module(force=True)
class StagedHead(nn.Module):
    """A head that runs stage by stage and has no forward, as Cascade RPN's."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


def observe(boxes: bool = False, **options: Any) -> Any:
    model = small.network(small.detector('retinanet', bbox_head__type='HalvedHead', **options))
    net = TappedModel(model.eval(), 'student')
    net.request([], scores=True, boxes=boxes)
    return net.observe(IMAGES)


def scores_of(output: Any) -> list[Tensor]:
    return list(output[0])


@pytest.mark.parametrize(
    ('read', 'found', 'mention'),
    [
        (lambda _, output: output[0][0], 'Tensor', 'must return a list'),
        (lambda _, output: output['scores'], 'tuple', 'fails on what the head returns: TypeError'),
        (lambda _, output: [], [], 'returns no level'),
        (lambda _, output: [None], 'NoneType', 'must be maps'),
        (lambda _, o: [one.flatten(2) for one in o[0]], (2, 27, 64), 'must be maps'),
        (lambda _, o: [one[:, :26] for one in o[0]], (2, 26, 8, 8), '9 anchors times 3 channels'),
        (lambda _, o: [one[:, :24] for one in o[0]], (2, 24, 8, 8), '9 anchors times 3 channels'),
        (lambda _, o: [one[:, :26] for one in o[0][:3]], (2, 26, 8, 8), 'a number of anchors'),
        (lambda _, o: [one[:, :0] for one in o[0][:3]], (2, 0, 8, 8), 'a number of anchors'),
    ],
)
def test_scores_of_another_form_are_refused_by_the_head(
    read: Any, found: Any, mention: str
) -> None:
    register_score_reader(HalvedHead)(read)
    with raises_config_error('student', found, 'HalvedHead', mention):
        observe()


def test_error_of_a_reader_passes_as_it_is() -> None:
    def read(head: nn.Module, output: Any) -> Any:
        with raises_config_error('x', ANY):
            HeadOutput.read(lambda *_: 1, head, output)
        raise AssertionError

    register_score_reader(HalvedHead)(read)
    with raises_config_error('student', ANY, 'AssertionError'):
        observe()


def test_boxes_are_read_only_where_they_are_requested() -> None:
    @register_score_reader(HalvedHead)
    def read(head: nn.Module, output: Any) -> HeadOutput:
        return HeadOutput(output[0], output[1], 'delta', 'mine')

    assert observe().boxes is None
    boxes = observe(boxes=True).boxes
    assert (boxes.kind, boxes.coding, boxes.values.shape) == ('delta', 'mine', (2, 774, 4))


@pytest.mark.parametrize(
    ('read', 'mention'),
    [
        (lambda _, o: scores_of(o), 'its score reader returns none'),
        (lambda _, o: HeadOutput(o[0], o[1]), 'its score reader returns none'),
        (lambda _, o: HeadOutput(o[0], o[1], 'corners'), "must be one of 'delta', 'distance'"),
        (lambda _, o: HeadOutput(o[0], o[1][:2], 'delta'), 'must have 4 values'),
        (lambda _, o: HeadOutput(o[0], o[1][::-1], 'delta'), 'must have 4 values'),
        (lambda _, o: HeadOutput(o[0], o[0], 'delta'), 'must have 4 values'),
        (lambda _, o: HeadOutput(o[0], o[1], 'distribution'), 'must have 4 values'),
        (lambda _, o: HeadOutput(o[0], [torch.cat([b, b], 1) for b in o[1]], 'delta'),
         'must have 4 values'),
    ],
)  # fmt: skip
def test_boxes_of_another_form_are_refused_by_the_head(read: Any, mention: str) -> None:
    register_score_reader(HalvedHead)(read)
    assert observe().scores.num_classes == small.CLASSES
    with raises_config_error('student', ANY, 'HalvedHead', mention):
        observe(boxes=True)


def test_channels_that_are_no_classes_are_refused() -> None:
    model = small.network(small.detector('retinanet'))
    model.bbox_head.cls_out_channels = small.CLASSES + 2
    with raises_config_error('student', ANY, 'RetinaHead has 5 channels for 3 classes'):
        TappedModel(model, 'student').request([], scores=True)


@pytest.mark.parametrize(
    ('head', 'reason'),
    [
        ('TextHead', 'TextHead needs words beside the maps of the images'),
        ('StagedHead', 'StagedHead has no forward of its own'),
        ('HalvedHead', 'HalvedHead overrides what RetinaHead returns'),
    ],
)
def test_unknown_head_is_refused_with_its_reason_and_learns_by_taps(
    head: str, reason: str, tmp_path: Path
) -> None:
    config = small.detector('retinanet', bbox_head__type=head)
    with raises_config_error('student', ANY, reason, fix='Use methods on taps alone'):
        TappedModel(small.network(config), 'student').request([], scores=True)
    net = TappedModel(small.network(config).eval(), 'student')
    net.request(['neck[0]'])
    assert net.observe(IMAGES).feature('neck[0]').shape == (2, 8, 8, 8)
