from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import classification as tiny
from helpers.analysis import checkpoint_of, config_of, network_of
from helpers.errors import raises_config_error

from mmkd_plugin.analysis.activity import Activity, activities, activity, draw_activity
from mmkd_plugin.analysis.images import Images
from mmkd_plugin.analysis.parts import DistilledNetworks, load_distilled


def test_activity_counts_neurons_above_zero() -> None:
    # Two images of three channels at two locations. 1 of 6 and 3 of 6 neurons are above 0: mean
    # 1/3, deviation 1/6. No image activates the last channel.
    values = torch.tensor(
        [[[[1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 0.0]]], [[[1.0, 2.0]], [[3.0, -1.0]], [[-5.0, 0.0]]]]
    )
    found = activity('net', 'map', values)
    assert (found.network, found.name) == ('net', 'map')
    assert found.active == pytest.approx(1 / 3)
    assert found.spread == pytest.approx(1 / 6)
    assert found.dead_channels == pytest.approx(1 / 3)


def test_activities_of_parts_average_to_their_map(
    networks: DistilledNetworks, images: Images
) -> None:
    twin = network_of(networks.student.model, 'twin')
    found = {
        (one.network, one.name): one
        for one in activities(replace(networks, others=[twin]), images.batches)
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


def test_activities_of_another_width_have_no_parts(
    networks: DistilledNetworks, images: Images
) -> None:
    wider = network_of(tiny.network(tiny.classifier(base_channels=6)), 'wider')
    found = activities(replace(networks, others=[wider]), images.batches)
    assert [one.name for one in found if one.network == 'wider'] == ['layer3']


def test_activities_without_ie_kd_raises(tmp_path: Path, images: Images) -> None:
    cfg = config_of(tmp_path, kd=dict(type='SoftTarget'))
    networks = load_distilled(cfg, checkpoint_of(cfg, tmp_path))
    with raises_config_error('config', fix='cka'):
        activities(networks, images.batches)


def test_draw_activity_draws_a_bar_for_each_map_in_its_networks_colour() -> None:
    found = [
        Activity('t', 'map', 0.5, 0.1, 0.0),
        Activity('s', 'a', 0.25, 0.1, 0.5),
        Activity('s', 'b', 0.75, 0.1, 0.0),
    ]
    figure = draw_activity(found, 24)
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [50.0, 25.0, 75.0]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[1] == colours[2] != colours[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        't: map',
        's: a, 50% of channels dead',
        's: b',
    ]
    assert '24 images' in figure.get_supxlabel()
