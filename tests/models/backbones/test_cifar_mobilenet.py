import itertools

import torch
from torch import nn

from mmkd_plugin.models.backbones import CifarMobileNet

# Table 1 of the paper: the widths before, between and after the 13 separable convolutions.
WIDTHS = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]


def test_mobilenet_has_the_parameters_of_the_paper() -> None:
    # A stem of 27 * 32; nine weights a channel and a full matrix between widths; scale and shift of
    # every normalisation.
    pairs = list(itertools.pairwise(WIDTHS))
    by_hand = 27 * 32 + 64 + sum(9 * a + a * b + 2 * a + 2 * b for a, b in pairs)
    with torch.device('meta'):
        counted = sum(p.numel() for p in CifarMobileNet().parameters())
    assert counted == by_hand == 3_206_976
    assert counted + sum(p.numel() for p in nn.Linear(1024, 100).parameters()) == 3_309_476
