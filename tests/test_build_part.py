from typing import Any

import pytest
import torch
from helpers.errors import ANY, raises_config_error
from torch import nn

from mmkd_plugin.models.connectors import HintRegressor
from mmkd_plugin.models.losses import FeatureLoss, hint_loss
from mmkd_plugin.models.methods import Hint, Method
from mmkd_plugin.registry import MODELS, build_part, class_of

REGRESSOR = dict(type='HintRegressor')


@pytest.mark.parametrize('name', ['HintRegressor', 'mmkd_plugin.HintRegressor', HintRegressor])
def test_type_is_a_name_with_or_without_prefix_or_a_class(name: Any) -> None:
    made = build_part(dict(type=name), nn.Module, 'connector', in_channels=3, out_channels=5)
    assert isinstance(made, HintRegressor)
    assert made.weight.shape == (5, 3)


def test_stated_arguments_win_over_inferred_ones_and_unknown_inferred_ones_are_left_out() -> None:
    inferred = dict(in_channels=3, out_channels=5, factor_channels=7)
    made = build_part(dict(REGRESSOR, out_channels=4), nn.Module, 'connector', **inferred)
    assert made.weight.shape == (4, 3)


def test_default_type_is_that_of_a_config_without_one() -> None:
    for config in (None, {}, dict(loss_weight=2.0)):
        made = build_part(config, FeatureLoss, 'loss', 'HintLoss')
        assert made.loss_weight == (2.0 if config else 1.0)
    assert class_of(None, FeatureLoss, 'loss', 'HintLoss') is MODELS.get('HintLoss')


def test_config_is_not_changed() -> None:
    config = dict(type='HintLoss', loss_weight=2.0)
    loss = build_part(config, FeatureLoss, 'loss')
    assert config == dict(type='HintLoss', loss_weight=2.0)
    student, teacher = torch.randn(2, 3, 5)
    torch.testing.assert_close(loss(student, teacher), 2 * hint_loss(student, teacher))


def test_type_of_another_project_is_found_by_its_prefix() -> None:
    import mmpretrain.models  # noqa: F401

    assert class_of(dict(type='mmpretrain.LinearClsHead'), nn.Module, 'head').__name__ == (
        'LinearClsHead'
    )


@pytest.mark.parametrize(
    ('config', 'kind', 'key', 'found', 'fix'),
    [
        (None, Method, 'part', None, "dict(type='AMTMLKD', …)"),
        ('Hint', Method, 'part', 'Hint', "dict(type='AMTMLKD', …)"),
        (dict(pairs=[]), Method, 'part', dict(pairs=[]), 'dict(type='),
        (dict(type='Hin'), Method, 'part.type', 'Hin', "'Hint'"),
        (dict(type=None), Method, 'part.type', None, 'nearest names'),
        (dict(type='HintLoss'), Method, 'part.type', 'HintLoss', None),
        (dict(type=nn.Linear), Method, 'part.type', nn.Linear, None),
        (dict(type='Hint', pair=1), Method, 'part.pair', 1, "Did you mean 'pairs'?"),
        (dict(type='Hint'), Method, 'part.pairs', ANY, 'Hint needs it'),
        (dict(type='Hint', pairs=[]), Method, 'part.pairs', [], None),
    ],
)
def test_config_that_cannot_be_built_is_refused(
    config: Any, kind: Any, key: str, found: Any, fix: str | None
) -> None:
    with raises_config_error(key, found, fix=fix):
        build_part(config, kind, 'part')


def test_class_of_does_not_build() -> None:
    assert class_of(dict(type='Hint'), Method, 'part') is Hint
