import itertools
from typing import Any

import pytest
import torch
from torch import nn

from mmkd_plugin.models.backbones import CifarMobileNet

# Table 1 of the paper: the widths between which the 13 separable convolutions lead.
WIDTHS = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]


def test_parameters() -> None:
    # A stem of 27 * 32; nine weights a channel and a full matrix between widths; scale and shift of every normalisation.
    pairs = list(itertools.pairwise(WIDTHS))
    by_hand = 27 * 32 + 64 + sum(9 * a + a * b + 2 * a + 2 * b for a, b in pairs)
    with torch.device('meta'):
        counted = sum(p.numel() for p in CifarMobileNet().parameters())
    assert counted == by_hand == 3_206_976
    assert counted + sum(p.numel() for p in nn.Linear(1024, 100).parameters()) == 3_309_476


def test_stages() -> None:
    net = CifarMobileNet(widen_factor=0.25, out_indices=(0, 1, 2, 3, 4)).eval()
    maps = net(torch.randn(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
        (128, 4, 4),
        (256, 2, 2),
    ]
    assert all(m.min() >= 0 for m in maps)


def test_no_stage_after_the_last_one_that_is_asked_for() -> None:
    with torch.device('meta'):
        net = CifarMobileNet(out_indices=(1,))
    assert hasattr(net, 'layer2') and not hasattr(net, 'layer3')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(widen_factor=0), r'^CifarMobileNet\.widen_factor: expected a number > 0, got 0$'),
        (
            dict(out_indices=()),
            r'^CifarMobileNet\.out_indices: expected some of \(0, 1, 2, 3, 4\), got \(\)$',
        ),
        (dict(out_indices=(5,)), r'^CifarMobileNet\.out_indices: expected some of .* got \(5,\)$'),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CifarMobileNet(**changes)
