from pathlib import Path

import torch
from helpers import classification as tiny
from helpers.analysis import TAP, config_of, ie_kd
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.analysis.networks import Networks
from mmkd_plugin.analysis.parts import parts_of


def test_parts_are_the_channels_that_the_checkpoint_splits(
    networks: Networks, checkpoint: str
) -> None:
    saved = torch.load(checkpoint, weights_only=True)['state_dict']
    inherit, explore = networks.parts
    assert [part.name for part in networks.parts] == ['f_inh', 'f_exp']
    assert torch.equal(inherit.index, saved['methods.ie.splits.0.inherit_index'])
    assert torch.equal(explore.index, saved['methods.ie.splits.0.explore_index'])
    assert (inherit.tap, inherit.channels, inherit.teacher) == (TAP, 16, (0, TAP))
    values = torch.randn(2, 16, 3, 3)
    assert torch.equal(inherit.of(values), values[:, inherit.index])
    assert torch.equal(inherit.mask(values) + explore.mask(values), torch.ones_like(values))
    assert torch.equal((inherit.mask(values) * values)[:, explore.index], torch.zeros(2, 8, 3, 3))


def test_parts_of_several_pairs_are_told_apart(tmp_path: Path) -> None:
    pairs = [dict(student=tap, teacher=tap) for tap in ('backbone.layer2', TAP)]
    methods = dict(low=dict(ie_kd(), pairs=pairs), again=ie_kd(), kd=dict(type='SoftTarget'))
    parts = parts_of(ROOT_MODELS.build(config_of(tmp_path, **methods).model))
    assert [part.name for part in parts] == [
        'f_inh of layer2', 'f_exp of layer2', 'f_inh of layer3 (1)', 'f_exp of layer3 (1)', 'f_inh of layer3 (2)', 'f_exp of layer3 (2)'
    ]  # fmt: skip
    assert [part.channels for part in parts] == [8, 8, 16, 16, 16, 16]


def test_other_methods_have_no_parts(tmp_path: Path) -> None:
    config = tiny.distiller_config(tmp_path, teachers=tiny.teachers(tmp_path, 1))
    assert parts_of(ROOT_MODELS.build(config)) == []
