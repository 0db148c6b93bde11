"""Anchors and decoded deltas: those of MMDet's generators and coders."""

import math
from typing import Any

import pytest
import torch
from helpers import dense_families as families
from helpers import detection as small
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

from mmkd_plugin.adapters import TappedModel
from mmkd_plugin.adapters.dense_heads import _delta_coder as delta_coder
from mmkd_plugin.adapters.dense_locations import anchor_grids
from mmkd_plugin.anchors import AnchorGrid, DeltaCoder
from mmkd_plugin.boxes import BoxOutputs


def boxes_of(family: str, inputs: torch.Tensor) -> tuple[Any, BoxOutputs]:
    model = small.network(families.detector(family)).eval()
    net = TappedModel(model, 'network')
    net.request([], boxes=True)
    with torch.no_grad():
        boxes = net.observe(inputs).boxes
    assert boxes is not None
    return model, boxes


@pytest.mark.parametrize('family', ['gfl', 'retinanet', 'atss'])
def test_anchors_are_those_of_the_generator(family: str) -> None:
    model, boxes = boxes_of(family, torch.zeros(1, 3, 64, 96))
    sizes = [level[:2] for level in boxes.levels]
    generator = model.bbox_head.prior_generator
    expected = torch.cat(generator.grid_priors(sizes, device='cpu'))
    assert torch.equal(boxes.anchor_boxes(), expected)
    cut = tuple((rows, max(columns - 1, 1), anchors) for rows, columns, anchors in boxes.levels)
    first = boxes.on_levels(cut).anchor_boxes()
    columns, anchors = boxes.levels[0][1:]
    assert torch.equal(first[(columns - 1) * anchors], expected[columns * anchors])


def test_heads_with_points_have_no_anchors() -> None:
    for family in ('fcos', 'yolox', 'rtmdet'):
        head = small.network(small.detector(family)).bbox_head
        assert anchor_grids(head, 3) == ()
    assert anchor_grids(object(), 3) == ()


def test_a_grid_that_is_not_square() -> None:
    grid = AnchorGrid(((0.0, 0.0, 2.0, 4.0), (0.0, 0.0, 6.0, 1.0)), (10.0, 20.0))
    found = grid.boxes(2, 3, torch.zeros((), dtype=torch.float64))
    assert found.dtype == torch.float64
    loop = [
        [10 * column, 20 * row, 10 * column + width, 20 * row + height]
        for row in range(2)
        for column in range(3)
        for width, height in ((2, 4), (6, 1))
    ]
    assert found.tolist() == loop
    begins = [[column, row] for row in range(2) for column in range(3) for _ in range(2)]
    inside = [10 * column < 20 and 20 * row < 21 for column, row in begins]
    assert grid.begin_inside(2, 3, (21, 20)).tolist() == inside
    assert 0 < sum(inside) < 12


CODERS = [
    dict(),
    dict(target_stds=(0.1, 0.1, 0.2, 0.2), target_means=(0.1, -0.2, 0.3, 0.0)),
    dict(add_ctr_clamp=True, ctr_clamp=3),
]


@pytest.mark.parametrize('settings', CODERS)
def test_deltas_are_decoded_as_mmdet_decodes_them(settings: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 60, 2, generator=generator, dtype=torch.float64)
    anchors = torch.cat([30 * corner, 30 * corner + 40 * size + 1], dim=1)
    stds = settings.get('target_stds', (1, 1, 1, 1))
    # Some are beyond the limits.
    deltas = 4 * torch.randn(60, 4, generator=generator, dtype=torch.float64) / torch.tensor(stds)
    host = DeltaXYWHBBoxCoder(**settings)
    coder = delta_coder(host)
    assert coder is not None
    found = coder.decode(deltas[None], anchors)[0]
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, 2:] + anchors[:, :2]) / 2
    pixels = found * sizes.repeat(1, 2) + centres.repeat(1, 2)
    torch.testing.assert_close(pixels, host.decode(anchors, deltas))
    for row, values, box in zip(deltas.tolist(), found.tolist(), sizes.tolist(), strict=True):
        means = settings.get('target_means', (0, 0, 0, 0))
        d = [x * std + mean for x, std, mean in zip(row, stds, means, strict=True)]
        limit = -math.log(0.016)
        for axis in range(2):
            size = math.exp(min(d[2 + axis], limit))
            if 'ctr_clamp' in settings:
                d[axis] = min(max(d[axis], -3 / box[axis]), 3 / box[axis])
            else:
                size = max(size, 0.016)
            assert values[axis] == pytest.approx(d[axis] - size / 2)
            assert values[2 + axis] == pytest.approx(d[axis] + size / 2)
    unlimited = DeltaCoder(coder.means, coder.stds).decode(deltas)
    assert not torch.allclose(unlimited, found)  # the limits count


def test_other_coders_are_not_decoded() -> None:
    class Legacy(DeltaXYWHBBoxCoder):
        pass

    assert delta_coder(Legacy()) is None
    with pytest.raises(ValueError, match='sizes of the anchors'):
        DeltaCoder(centre_limit=3.0).decode(torch.zeros(1, 4))


@pytest.mark.parametrize('family', ['retinanet', 'atss', 'yolof', 'yolox'])
def test_heads_are_decoded_as_they_decode_themselves(family: str) -> None:
    inputs = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    model, boxes = boxes_of(family, inputs)
    assert boxes.decodable
    head = model.bbox_head
    sizes = [level[:2] for level in boxes.levels]
    if family == 'yolox':
        priors = torch.cat(head.prior_generator.grid_priors(sizes, device='cpu', with_stride=True))
        expected = head._bbox_decode(priors, boxes.values)
        unit, middle = priors[:, 2:], priors[:, :2]
    else:
        priors = torch.cat(head.prior_generator.grid_priors(sizes, device='cpu'))
        expected = torch.stack([head.bbox_coder.decode(priors, one) for one in boxes.values])
        unit, middle = priors[:, 2:] - priors[:, :2], (priors[:, 2:] + priors[:, :2]) / 2
    found = boxes.corners() * unit.repeat(1, 2) + middle.repeat(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_yolov3_and_unknown_coders_cannot_be_decoded() -> None:
    _, boxes = boxes_of('yolov3', torch.zeros(1, 3, 64, 64))
    assert not boxes.decodable
    with pytest.raises(ValueError, match='YOLOBBoxCoder'):
        boxes.corners()
    unknown = BoxOutputs(torch.zeros(1, 2, 4), 'delta', coder=DeltaCoder(centre_limit=1.0))
    assert not unknown.decodable  # its limit is in pixels, and there are no anchors
