import pytest
import torch

from mmkd_plugin.models.methods.locations import Locations


def test_sure_background_and_padding_count_nothing_and_the_rest_by_its_confidence() -> None:
    # v m [m >= b] is 0.6, 0, 0 in the first image and 0.2, 0, 0.05 in the second: 0.85 in all.
    confidence = torch.tensor([[0.6, 0.04, 0.01], [0.2, 0.9, 0.05]])
    valid = torch.tensor([[True, True, True], [True, False, True]])
    weights = Locations().weights(confidence, valid)
    torch.testing.assert_close(weights, torch.tensor([[0.6, 0.0, 0.0], [0.2, 0.0, 0.05]]) / 0.85)


def test_uniform_is_the_mean_over_what_is_no_padding() -> None:
    weights = Locations('uniform').weights(
        torch.rand(2, 3), torch.tensor([[True, True, False], [True, True, False]])
    )
    assert weights.tolist() == [[0.25, 0.25, 0.0]] * 2
    torch.testing.assert_close(
        Locations('uniform').weights(torch.rand(2, 3), None), torch.full((2, 3), 1 / 6)
    )


def test_objects_do_not_drown_in_background() -> None:
    """20,000 places at the prior of a focal loss, 0.01, and 30 that show an object."""
    confidence = torch.full((1, 20_030), 0.01)
    confidence[0, :30] = 0.6
    shares = [Locations(**config).weights(confidence, None)[0, :30].sum().item() for config in (
        dict(), dict(background=0.0), dict(weighting='uniform'),
    )]  # fmt: skip
    assert shares == pytest.approx([1.0, 18 / 218, 30 / 20_030], rel=1e-4)


def test_where_no_place_teaches_all_count_nothing() -> None:
    assert Locations().weights(torch.full((2, 3), 0.01), None).tolist() == [[0.0] * 3] * 2
    assert Locations('uniform').weights(
        torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)
    ).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (
            dict(weighting='focal'),
            r"^locations.weighting: expected one of 'foreground', 'uniform', got 'focal'",
        ),
        (
            dict(background=1.0),
            r'^locations.background: expected a probability in \[0, 1\), got 1.0',
        ),
        (
            dict(background=None),
            r'^locations.background: expected a probability in \[0, 1\), got None',
        ),
        (dict(power=2), r'^locations: expected other arguments'),
        (
            'uniform',
            r"^locations: expected dict\(weighting='foreground', background=0.05\), got 'uniform'",
        ),
    ],
)
def test_what_is_wrong_is_named(config: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Locations.of(config)
