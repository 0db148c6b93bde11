"""Levels of a network are found without its values, where it does not read them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import detection as small
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmkd_plugin.adapters.levels import LevelFinder
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.recipes.networks import Networks, one_thread


@ROOT_MODELS.register_module(force=True)
class ReadsValues(nn.Module):
    """A backbone that computes a number from its weights, as no network can without values."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1))

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        scale = self.stage[0].weight.abs().max().item()
        return (self.stage(inputs) / scale,)


def plain(path: str) -> LevelFinder:
    network = build_network(network_config(path, 'student'), 'student')
    return LevelFinder(TappedModel(network, 'student'))


def written(folder: Path, model: Any, scope: str) -> str:
    path = folder / 'student.py'
    Config(dict(model=ConfigDict(model), default_scope=scope)).dump(path)
    return str(path)


@pytest.mark.parametrize('family', ['retinanet', 'gfl', 'faster_rcnn'])
def test_levels_without_values_are_those_with_values(family: str, tmp_path: Path) -> None:
    path = written(tmp_path, small.detector(family), 'mmdet')
    before = torch.get_rng_state()
    found = Networks(path, [], []).own
    assert torch.equal(torch.get_rng_state(), before)
    blank = [one.is_meta for one in found.network.model.parameters()]
    assert all(blank) if family != 'faster_rcnn' else not any(blank)
    for word in ('stages', 'neck', 'last'):
        levels = found.levels(word, trained=True)
        assert levels and levels == plain(path).levels(word, trained=True)


def test_network_that_reads_values_runs_with_them(tmp_path: Path) -> None:
    model = dict(small.detector('retinanet'), backbone=dict(type='ReadsValues'))
    model['neck'] = dict(type='mmdet.FPN', in_channels=[4], out_channels=8, num_outs=5)
    path = written(tmp_path, model, 'mmdet')
    found = Networks(path, [], []).own
    assert not any(one.is_meta for one in found.network.model.parameters())
    assert [level.shape[0] for level in found.levels('last')] == [4]


def test_threads_are_given_back_after_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = 0
    try:
        with pytest.raises(ZeroDivisionError):
            _ = one_thread()(lambda: torch.get_num_threads() and 1 / 0)()
        with one_thread():
            seen = torch.get_num_threads()
        assert (seen, torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(before)
