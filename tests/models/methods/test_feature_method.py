from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.classification import built, output
from helpers.errors import ANY, raises_config_error
from torch import Tensor, nn

from mmkd_plugin.models.losses import FeatureLoss, attention_transfer_loss
from mmkd_plugin.models.methods import FeatureMethod, Hint
from mmkd_plugin.registry import MODELS

LOW, HIGH = dict(student='low', teacher='low'), dict(student='high', teacher='high', index=1)
PAIRS = [LOW, HIGH]
STUDENT = output(low=torch.randn(3, 4, 8, 8), high=torch.randn(3, 6, 4, 4))
TEACHERS = [output(low=torch.randn(3, 5, 4, 4)), output(high=torch.randn(3, 7, 8, 8))]
HINT, ATTENTION = dict(type='HintLoss'), dict(type='AttentionTransferLoss')
REGRESSOR = dict(type='HintRegressor')


def build(loss: Any = HINT, pairs: Any = PAIRS, **options: Any) -> FeatureMethod:
    return built(FeatureMethod(loss, pairs, **options), STUDENT, TEACHERS)


def test_hint_loss_behind_hint_regressors_equals_hint() -> None:
    """Hint pools before its regressor and this after it: means commute with a 1x1 convolution."""
    method = build(connector=REGRESSOR, loss_weight=0.5)
    hint = built(Hint(PAIRS, loss_weight=0.5), STUDENT, TEACHERS)
    hint.regressors.load_state_dict(method.connectors.state_dict())
    losses, expected = (one(STUDENT, TEACHERS, None) for one in (method, hint))
    torch.testing.assert_close(losses['loss_feature'], expected['loss_hint'])
    for one, other in zip(method.parameters(), hint.parameters(), strict=True):
        gradients = [
            torch.autograd.grad(value, p, retain_graph=True)[0]
            for value, p in ((losses['loss_feature'], one), (expected['loss_hint'], other))
        ]
        torch.testing.assert_close(*gradients)


def test_hint_loss_behind_hint_regressors_draws_the_weights_of_hint() -> None:
    """With one seed both methods start alike."""
    torch.manual_seed(3)
    method = build(connector=REGRESSOR)
    torch.manual_seed(3)
    hint = built(Hint(PAIRS), STUDENT, TEACHERS)
    assert all(map(torch.equal, method.parameters(), hint.parameters()))


def test_without_connector_equals_the_loss_function() -> None:
    method = build(dict(ATTENTION, loss_weight=10.0), loss_weight=2.0)
    expected = 20 * (
        attention_transfer_loss(STUDENT.feature('low'), TEACHERS[0].feature('low'))
        + attention_transfer_loss(STUDENT.feature('high'), TEACHERS[1].feature('high'))
    )
    torch.testing.assert_close(method(STUDENT, TEACHERS, None), {'loss_feature': expected})
    assert not list(method.parameters())


def test_build_leaves_connectors_as_a_fresh_run_has_them() -> None:
    """The shapes are tried in eval mode: no statistics, no random number, train mode again."""
    torch.manual_seed(3)
    connectors = build(connector=dict(type='OverhaulConnector')).connectors
    state = torch.get_rng_state()
    assert all(module.training for module in connectors.modules())
    for connector in connectors:
        assert connector.norm.num_batches_tracked == 0
        assert not connector.norm.running_mean.any()
        assert all(p.grad is None for p in connector.parameters())
    torch.manual_seed(3)
    for one, (source, target) in zip(connectors, ((4, 5), (6, 7)), strict=True):
        assert torch.equal(one.convolution.weight, type(one)(source, target).convolution.weight)
    assert torch.equal(torch.get_rng_state(), state)


@MODELS.register_module(force=True)
class ScaledLoss(FeatureLoss):
    """A loss with a state of its own: a learned factor."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (self.factor * student.mean() - teacher.mean()).square()


def test_loss_with_a_state_of_its_own_trains(tmp_path: Path) -> None:
    pairs = [dict(student='backbone.layer2', teacher='backbone.layer3')]
    method = dict(type='FeatureMethod', loss=dict(type='ScaledLoss'), pairs=pairs)
    model = tiny.distiller(tmp_path, methods=dict(mine=method))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tiny.losses_of(model)['mine.loss_feature'].backward()
    optimizer.step()
    assert model.methods['mine'].loss.factor != 1


def test_weight_zero_of_method_or_loss_makes_it_inactive() -> None:
    assert FeatureMethod(HINT, PAIRS).active
    assert not FeatureMethod(HINT, PAIRS, loss_weight=0.0).active
    assert not FeatureMethod(dict(HINT, loss_weight=0), PAIRS).active
    assert FeatureMethod(dict(type='ScaledLoss'), PAIRS).active, 'a loss without a weight'


@MODELS.register_module(force=True)
class NoKind(nn.Module):
    """A module that is no loss of either kind."""


@pytest.mark.parametrize(
    ('loss', 'key', 'found', 'fix'),
    [
        (None, 'loss', None, 'dict(type='),
        ('HintLoss', 'loss', 'HintLoss', 'dict(type='),
        (dict(loss_weight=1.0), 'loss', dict(loss_weight=1.0), 'dict(type='),
        (dict(type='HintLos'), 'loss.type', 'HintLos', "'HintLoss'"),
        (dict(type='CKALoss'), 'loss.type', 'CKALoss', 'use RelationMethod'),
        (dict(type='DistanceLoss'), 'loss.type', 'DistanceLoss', 'use RelationMethod'),
        (dict(type='NoKind'), 'loss.type', 'NoKind', '@loss_module'),
        (dict(type='SoftTarget'), 'loss.type', 'SoftTarget', '@loss_module'),
        (dict(HINT, power=2), 'loss.power', 2, 'loss_weight'),
        (dict(HINT, loss_weight=-1), 'loss.loss_weight', -1, None),
    ],
)
def test_loss_that_cannot_be_used_is_refused(loss: Any, key: str, found: Any, fix: str) -> None:
    with raises_config_error(key, found, fix=fix):
        FeatureMethod(loss, PAIRS)


@pytest.mark.parametrize(
    ('connector', 'key', 'found'),
    [
        (dict(type='HintRegresor'), 'connector.type', 'HintRegresor'),
        (dict(REGRESSOR, bias=True), 'connector.bias', True),
        (dict(REGRESSOR, out_channels=0), 'connector.out_channels', 0),
        ('HintRegressor', 'connector', 'HintRegressor'),
    ],
)
def test_connector_that_cannot_be_built_is_refused(connector: Any, key: str, found: Any) -> None:
    with raises_config_error(key, found):
        build(connector=connector)


@pytest.mark.parametrize(
    ('connector', 'key', 'found', 'mentions'),
    [
        (None, 'pairs[0].student', (3, 4, 8, 8), 'hint_loss'),
        (dict(REGRESSOR, out_channels=6), 'pairs[0].student', (3, 4, 8, 8), 'hint_loss'),
        (dict(REGRESSOR, in_channels=3), 'pairs[0].connector.in_channels', ANY, 'C = 3'),
    ],
)
def test_pair_that_the_loss_cannot_compare_is_refused_when_the_run_is_built(
    connector: Any, key: str, found: Any, mentions: str
) -> None:
    with raises_config_error(key, found, mentions):
        build(connector=connector)


def test_pair_that_the_loss_cannot_compare_names_the_connector_as_remedy(tmp_path: Path) -> None:
    pairs = [dict(student='backbone.layer3', teacher='backbone.layer3')]
    method = dict(type='FeatureMethod', loss=HINT, pairs=pairs)
    key, fix = 'methods.mine.pairs[0].student', "connector=dict(type='HintRegressor')"
    with raises_config_error(key, (2, 16, 16, 16), fix=fix):
        tiny.distiller(tmp_path, methods=dict(mine=method))
    model = tiny.distiller(tmp_path, methods=dict(mine=dict(method, connector=REGRESSOR)))
    assert tiny.losses_of(model)['mine.loss_feature'] > 0
