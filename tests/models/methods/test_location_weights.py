from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error

from mmkd_plugin.models.methods.location_weights import LocationWeights


def test_foreground_weighs_by_confidence_and_leaves_out_background_and_padding() -> None:
    # v m [m >= b] is 0.6, 0, 0 in the first image and 0.2, 0, 0.05 in the second: 0.85 in all.
    confidence = torch.tensor([[0.6, 0.04, 0.01], [0.2, 0.9, 0.05]])
    valid = torch.tensor([[True, True, True], [True, False, True]])
    weights = LocationWeights()(confidence, valid)
    torch.testing.assert_close(weights, torch.tensor([[0.6, 0.0, 0.0], [0.2, 0.0, 0.05]]) / 0.85)


def test_uniform_is_the_mean_over_all_but_the_padding() -> None:
    uniform = LocationWeights('uniform')
    valid = torch.tensor([[True, True, False], [True, True, False]])
    assert uniform(torch.rand(2, 3), valid).tolist() == [[0.25, 0.25, 0.0]] * 2
    torch.testing.assert_close(uniform(torch.rand(2, 3), None), torch.full((2, 3), 1 / 6))


@pytest.mark.parametrize(
    ('config', 'share'),
    [({}, 1.0), (dict(background=0.0), 18 / 218), (dict(weighting='uniform'), 30 / 20_030)],
)
def test_objects_have_a_greater_share_than_in_a_uniform_mean(
    config: dict[str, Any], share: float
) -> None:
    """20,000 locations at the prior of a focal loss, 0.01, and 30 that show an object."""
    confidence = torch.full((1, 20_030), 0.01)
    confidence[0, :30] = 0.6
    weights = LocationWeights(**config)(confidence, None)
    assert weights[0, :30].sum().item() == pytest.approx(share, rel=1e-4)


def test_no_location_that_counts_gives_weights_of_zero() -> None:
    assert LocationWeights()(torch.full((2, 3), 0.01), None).tolist() == [[0.0] * 3] * 2
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert LocationWeights('uniform')(torch.ones(1, 2), nothing).tolist() == [[0.0, 0.0]]


def test_from_config_has_the_defaults_of_the_class() -> None:
    made = LocationWeights.from_config(None)
    assert (made.weighting, made.background) == ('foreground', 0.05)
    made = LocationWeights.from_config(dict(weighting='uniform', background=0))
    assert (made.weighting, made.background) == ('uniform', 0)


@pytest.mark.parametrize(
    ('config', 'key', 'found', 'mentions'),
    [
        (dict(weighting='focal'), 'locations.weighting', 'focal', "'foreground', 'uniform'"),
        (dict(background=1.0), 'locations.background', 1.0, 'in [0, 1)'),
        (dict(background=-0.1), 'locations.background', -0.1, 'in [0, 1)'),
        (dict(background=None), 'locations.background', None, 'in [0, 1)'),
        (dict(background=False), 'locations.background', False, 'in [0, 1)'),
        (dict(power=2), 'locations.power', 2, 'weighting, background'),
        ('uniform', 'locations', 'uniform', "dict(weighting='foreground', background=0.05)"),
    ],
)
def test_from_config_wrong_setting_is_refused(
    config: Any, key: str, found: Any, mentions: str
) -> None:
    with raises_config_error(key, found, mentions):
        LocationWeights.from_config(config)
