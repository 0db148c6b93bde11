"""Unexpected tensors: another structure, or a part that the model does not have."""

import pytest
from torch import nn

from mmkd_plugin.loading.unexpected import show_another_model


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 2, 1, bias=False)
        self.norm = nn.GroupNorm(1, 2)
        self.downsample = None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())
        self.layer2 = nn.Sequential(Block())
        self.branches = nn.ModuleList([nn.Linear(2, 2)])
        self.neck = None
        self.data_preprocessor = nn.Module()


@pytest.mark.parametrize(
    'key',
    [
        'layer1.2.conv1.weight',  # a deeper stack
        'branches.1.weight',
        'layer3.0.conv1.weight',  # a longer series
        'layer1.0.conv2.weight',
        'layer1.0.se.weight',  # a part inside a member of a stack
        'layer1.0.downsample.0.weight',  # switched off
        'layer1.0.conv1.bias',
        'layer1.0.norm.running_mean',  # another norm
    ],
)
def test_a_tensor_of_another_structure_is_named(key: str) -> None:
    assert show_another_model(Net(), [key]) == [key]


@pytest.mark.parametrize(
    'key',
    [
        'roi_head.mask_head.conv.weight',  # a whole part
        'neck.conv.weight',
        'layer1.0.relative_position_index',  # a buffer of another version
        'data_preprocessor.mean',
    ],
)
def test_a_tensor_of_an_absent_part_or_of_a_buffer_is_not_named(key: str) -> None:
    assert show_another_model(Net(), [key]) == []
