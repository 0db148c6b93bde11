from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.analysis import config_of
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.analysis.activity import Activity, activities, activity
from mmkd_plugin.analysis.activity_picture import draw_activity
from mmkd_plugin.analysis.images import Images
from mmkd_plugin.analysis.networks import Networks, load_networks


def test_neurons_above_zero_are_active() -> None:
    # Two images of three channels of two places: 1 of 6 and 3 of 6 are above 0, mean 1/3, deviation 1/6; the last channel never.
    values = torch.tensor(
        [[[[1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 0.0]]], [[[1.0, 2.0]], [[3.0, -1.0]], [[-5.0, 0.0]]]]
    )
    found = activity('net', 'map', values)
    assert (found.network, found.name) == ('net', 'map')
    assert found.active == pytest.approx(1 / 3)
    assert found.spread == pytest.approx(1 / 6)
    assert found.dead_channels == pytest.approx(1 / 3)


def test_parts_are_averages_of_their_map(networks: Networks, images: Images) -> None:
    other = replace(networks.student, name='twin')
    found = {
        (one.network, one.name): one
        for one in activities(replace(networks, others=[other]), images.batches)
    }
    names = ['layer3', 'f_inh', 'f_exp']
    assert list(found) == [
        ('t0', 'layer3'),
        *(('twin', name if name == 'layer3' else f'channels of {name}') for name in names),
        *(('student', name) for name in names),
    ]
    whole, inherit, explore = (found['student', name].active for name in names)
    assert whole == pytest.approx((inherit + explore) / 2)
    assert inherit != explore
    assert found['twin', 'channels of f_exp'].active == explore


def test_without_parts_there_is_nothing_to_compare(tmp_path: Path, images: Images) -> None:
    cfg = config_of(tmp_path, kd=dict(type='SoftTarget'))
    torch.save(dict(state_dict=ROOT_MODELS.build(cfg.model).state_dict()), tmp_path / 'kd.pth')
    with pytest.raises(ValueError, match=r"^config: expected a method 'IEKD'"):
        activities(load_networks(cfg, str(tmp_path / 'kd.pth')), images.batches)


def test_a_bar_for_each_in_its_networks_colour() -> None:
    found = [
        Activity('t', 'map', 0.5, 0.1, 0.0),
        Activity('s', 'a', 0.25, 0.1, 0.5),
        Activity('s', 'b', 0.75, 0.1, 0.0),
    ]
    axes = draw_activity(found, 24).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [50.0, 25.0, 75.0]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[1] == colours[2] != colours[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        't: map',
        's: a, 50% of channels dead',
        's: b',
    ]
