from typing import Any

import pytest
import torch
from helpers.classification import built, output
from helpers.errors import raises_config_error
from torch import Tensor, nn

from mmkd_plugin.models.losses import overhaul_loss, overhaul_margin
from mmkd_plugin.models.methods import Overhaul

LOW = dict(student='low', teacher='low', norm='bn')
HIGH = dict(student='high', teacher='high', index=1, norm='wide')
SCALE, SHIFT = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.1]), torch.tensor([0.0, 0.3, -1.0, 2.0, 0.0])


def network() -> nn.Module:
    net = nn.ModuleDict(
        {'bn': nn.BatchNorm2d(5), 'wide': nn.BatchNorm2d(7), 'conv': nn.Conv2d(5, 5, 1)}
    )
    net['bn'].weight.data, net['bn'].bias.data = SCALE, SHIFT
    return net


STUDENT = output(low=torch.randn(3, 4, 8, 8), high=torch.randn(3, 6, 4, 4))
TEACHERS = [output(low=torch.randn(3, 5, 4, 4)), output(high=torch.randn(3, 7, 8, 8))]


def build(*pairs: Any, frozen: bool = True, **options: Any) -> Overhaul:
    return built(Overhaul(list(pairs), **options), STUDENT, TEACHERS, frozen, network())


def test_loss_weighs_levels_and_takes_margins_from_the_norms_of_the_teacher() -> None:
    method = build(LOW, HIGH).eval()
    norms: list[tuple[Tensor, Tensor]] = [(SCALE, SHIFT), (torch.ones(7), torch.zeros(7))]
    expected = torch.zeros(())
    for level, (tap, (scale, shift)) in enumerate(zip(('low', 'high'), norms, strict=True)):
        source = method.connectors[level](STUDENT.feature(tap))
        margin = overhaul_margin(scale, shift)
        loss = overhaul_loss(source, TEACHERS[level].feature(tap), margin)
        expected = expected + loss / (1000 * 2 ** (1 - level))
    torch.testing.assert_close(method(STUDENT, TEACHERS, None), {'loss_overhaul': expected})


def test_margins_are_saved_with_the_run() -> None:
    method = build(LOW, HIGH)
    assert {'margins.margin0', 'margins.margin1'} <= method.state_dict().keys()
    assert not any('margin' in name for name, _ in method.named_parameters())
    torch.testing.assert_close(method.margins.of(0), overhaul_margin(SCALE, SHIFT))


def test_margin_target_cuts_the_map_of_the_teacher_off_at_the_margin() -> None:
    method, feature = build(LOW, HIGH), TEACHERS[0].feature('low')
    target = method.margins.target(0, feature)
    margin = method.margins.of(0).view(1, -1, 1, 1).expand_as(feature)
    assert torch.equal(target, torch.where(feature < margin, margin, feature))
    assert (target != feature).any()


@pytest.mark.parametrize('norm', [None, 3])
def test_pair_without_a_norm_is_refused(norm: Any) -> None:
    pair = {name: value for name, value in {**HIGH, 'norm': norm}.items() if value is not None}
    with raises_config_error('pairs[1].norm', norm, 'BatchNorm', fix="'backbone.layer3.2.bn2'"):
        Overhaul([LOW, pair])


@pytest.mark.parametrize(
    ('norm', 'found', 'mentions'),
    [
        ('wide', 7, "the 5 channels of 'low'"),
        ('none', 'none', 'no module'),
        ('conv', 'conv', 'Conv2d'),
    ],
)
def test_norm_that_does_not_fit_is_refused(norm: str, found: Any, mentions: str) -> None:
    with raises_config_error('pairs[0].norm', found, mentions):
        build(dict(LOW, norm=norm))


def test_peer_is_refused_since_its_norms_still_learn() -> None:
    with raises_config_error('pairs[0].norm', 'bn', 'teachers[0] still learns', fix='mutual'):
        build(LOW, frozen=False)
