from pathlib import Path

import pytest
import torch
from helpers import classification as tiny
from helpers.analysis import TAP, checkpoint_of, config_of, ie_kd
from helpers.errors import raises_config_error
from mmengine.config import Config
from torch import Tensor

from mmkd_plugin.analysis.parts import DistilledNetworks, Part, load_distilled, parts_of


def state_of(checkpoint: str) -> dict[str, Tensor]:
    return torch.load(checkpoint, weights_only=True)['state_dict']


def parts_after(cfg: Config, folder: Path) -> list[Part]:
    """Parts of a config after a run of it."""
    return parts_of(cfg.model.methods, state_of(checkpoint_of(cfg, folder)))


def test_parts_are_the_channels_that_the_checkpoint_splits(
    networks: DistilledNetworks, checkpoint: str
) -> None:
    saved = state_of(checkpoint)
    inherit, explore = networks.parts
    assert [part.name for part in networks.parts] == ['f_inh', 'f_exp']
    assert torch.equal(inherit.index, saved['methods.ie.splits.0.inherit_index'])
    assert torch.equal(explore.index, saved['methods.ie.splits.0.explore_index'])
    assert (inherit.tap, inherit.channels, inherit.teacher) == (TAP, 16, (0, TAP))
    values = torch.randn(2, 16, 3, 3)
    assert torch.equal(inherit.of(values), values[:, inherit.index])
    assert torch.equal(inherit.mask(values) + explore.mask(values), torch.ones_like(values))
    assert torch.equal((inherit.mask(values) * values)[:, explore.index], torch.zeros(2, 8, 3, 3))


def test_parts_come_from_the_checkpoint_whatever_the_config_would_split(
    cfg: Config, checkpoint: str
) -> None:
    cfg.model.methods.ie.split = dict(mode='halves')
    inherit, _ = parts_of(cfg.model.methods, state_of(checkpoint))
    assert inherit.index.tolist() != list(range(8))
    assert torch.equal(inherit.index, state_of(checkpoint)['methods.ie.splits.0.inherit_index'])


def test_parts_of_several_pairs_have_different_names(tmp_path: Path) -> None:
    pairs = [dict(student=tap, teacher=tap) for tap in ('backbone.layer2', TAP)]
    methods = dict(low=ie_kd(pairs=pairs), again=ie_kd(), kd=dict(type='SoftTarget'))
    parts = parts_after(config_of(tmp_path, **methods), tmp_path)
    assert [part.name for part in parts] == [
        'f_inh of layer2',
        'f_exp of layer2',
        'f_inh of layer3 (1)',
        'f_exp of layer3 (1)',
        'f_inh of layer3 (2)',
        'f_exp of layer3 (2)',
    ]
    assert [part.channels for part in parts] == [8, 8, 16, 16, 16, 16]


@pytest.mark.parametrize(
    'other',
    [dict(type='SoftTarget'), ie_kd(inherit_weight=0.0, explore_weight=0.0)],
    ids=['another method', 'weights of 0'],
)
def test_parts_of_a_run_without_ie_kd_are_none(tmp_path: Path, other: dict[str, object]) -> None:
    methods = dict(kd=dict(type='SoftTarget'), other=other)
    assert parts_after(config_of(tmp_path, **methods), tmp_path) == []


def test_parts_of_the_checkpoint_of_another_config_raise(cfg: Config, checkpoint: str) -> None:
    cfg.model.methods = dict(renamed=cfg.model.methods.ie)
    missing = 'methods.renamed.splits.0.inherit_index'
    with raises_config_error('checkpoint', missing, fix='a run of this config'):
        load_distilled(cfg, checkpoint)


def test_load_distilled_of_a_run_without_record_of_its_teachers_reads_its_parts(
    cfg: Config, checkpoint: str, tmp_path: Path
) -> None:
    """Runs of the first edition have the same keys, but no record."""
    state = {name: value for name, value in state_of(checkpoint).items() if 'record' not in name}
    torch.save(dict(state_dict=state), tmp_path / 'first.pth')
    found = load_distilled(cfg, str(tmp_path / 'first.pth')).parts
    assert [part.index.tolist() for part in found] == [
        part.index.tolist() for part in load_distilled(cfg, checkpoint).parts
    ]


def test_student_of_networks_is_the_only_trained_one(networks: DistilledNetworks) -> None:
    assert networks.student is networks.own[0]
    assert networks.student.model.head.num_classes == tiny.CLASSES


def test_parts_of_factors_need_no_paraphraser() -> None:
    pair = dict(student=TAP, teacher='backbone', index=1, checkpoint='nowhere.pth')
    state = {
        'methods.ie.splits.0.inherit_index': torch.tensor([0, 2]),
        'methods.ie.splits.0.explore_index': torch.tensor([1]),
    }
    inherit, explore = parts_of(dict(ie=dict(type='IEKD', pairs=[pair])), state)
    assert (inherit.index.tolist(), explore.index.tolist()) == ([0, 2], [1])
    assert (inherit.channels, inherit.teacher) == (3, (1, 'backbone'))
