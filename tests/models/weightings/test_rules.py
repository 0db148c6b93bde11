import math

import pytest
import torch
from helpers.errors import raises_config_error
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.models.weightings import (
    ConfidenceTeacherWeighting,
    EntropyTeacherWeighting,
    LatentTeacherWeighting,
    RandomTeacherWeighting,
    TeacherWeighting,
    UniformTeacherWeighting,
)
from mmkd_plugin.registry import build_part

RULES = [
    ConfidenceTeacherWeighting,
    EntropyTeacherWeighting,
    LatentTeacherWeighting,
    RandomTeacherWeighting,
    UniformTeacherWeighting,
]


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize('n', [1, 6])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_weighting_gives_each_image_a_distribution_over_teachers(
    rule: type[TeacherWeighting], count: int, n: int, dtype: torch.dtype
) -> None:
    weights = rule(count, 8)(
        torch.randn(n, 8).to(dtype), torch.randn(n, count, 5).to(dtype), torch.arange(n) % 5
    )
    assert weights.shape == (n, count)
    assert weights.dtype == torch.float32
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(n))


def test_latent_weighting_equals_the_value_by_hand() -> None:
    # v = (1, 2), theta = (1, 0), (0, 1), A = (3, 1): scores v . (theta * A) = 3 and 2. So w_0 is
    # 1 / (1 + e^-1).
    rule = LatentTeacherWeighting(2, 2)
    rule.load_state_dict(
        {**rule.state_dict(), 'factors': torch.eye(2), 'direction': torch.tensor([1.0, 2.0])}
    )
    assert rule(torch.tensor([[3.0, 1.0]]))[0, 0].item() == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize('dims', [64, 2048])
def test_latent_weighting_starts_unsaturated_but_not_uniform(dims: int) -> None:
    # The largest of three weights is at least 1/3; with unit variance it is nearly 1.
    embedding = torch.randn(256, dims).relu()  # maps after ReLU
    largest = torch.cat([LatentTeacherWeighting(3, dims)(embedding).amax(dim=1) for _ in range(10)])
    assert 0.34 < largest.mean() < 0.6
    assert largest.max() < 0.95
    unit = torch.cat(
        [LatentTeacherWeighting(3, dims, init_std=1.0)(embedding).amax(dim=1) for _ in range(10)]
    )
    assert unit.mean() > 0.85


def test_latent_weighting_differs_between_images_and_learns() -> None:
    rule, embedding = LatentTeacherWeighting(3, 64), torch.randn(8, 64)
    weights = rule(embedding)
    assert weights.std(dim=0).min() > 1e-3
    weights[:, 0].log().sum().backward()
    assert rule.factors.grad.abs().min() > 0
    assert rule.direction.grad.abs().min() > 0


def test_latent_weighting_at_zero_is_stationary_and_does_not_start_there() -> None:
    rule, embedding = LatentTeacherWeighting(3, 8, init_std=1e-30), torch.randn(8, 8)
    rule(embedding)[:, 0].sum().backward()
    assert rule.factors.grad.abs().max() < 1e-20
    fresh = LatentTeacherWeighting(3, 8)
    assert fresh.factors.std() > 0.1
    assert fresh.direction.std() > 0.1


def test_latent_weighting_under_autocast_stays_in_float32() -> None:
    rule, embedding = LatentTeacherWeighting(3, 64), torch.randn(8, 64)
    with torch.autocast('cpu', torch.bfloat16):
        inside = rule(embedding)
    torch.testing.assert_close(inside, rule.double()(embedding.double()).float())


def test_latent_weighting_when_frozen_ignores_the_optimizer() -> None:
    rule, embedding = LatentTeacherWeighting(2, 4), torch.randn(6, 4)
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)

    def step() -> Tensor:
        optimizer.zero_grad()
        weights = rule(embedding)
        weights[:, 0].sum().backward()
        optimizer.step()
        return weights.detach()

    one, two = step(), step()
    assert not torch.allclose(one, two)
    rule.freeze()
    frozen = [step() for _ in range(3)]
    assert torch.equal(frozen[0], frozen[1])
    assert torch.equal(frozen[0], frozen[2])
    assert rule.factors.grad is not None
    assert rule.factors.grad.abs().max() == 0, 'in the graph, for DDP, but unmoved'
    rule.freeze()  # a second call, as on every later epoch, takes nothing over
    assert torch.equal(step(), frozen[0])
    resumed = LatentTeacherWeighting(2, 4)
    resumed.load_state_dict(rule.state_dict())
    assert torch.equal(resumed(embedding), frozen[0])


def test_uniform_weighting_gives_equal_weights() -> None:
    assert UniformTeacherWeighting(4)(torch.randn(2, 3)).tolist() == [[0.25] * 4] * 2


def test_random_weighting_is_uniform_on_average_and_fresh_in_every_step() -> None:
    # The Dirichlet of ones: mean 1/T, variance (T - 1) / (T^2 (T + 1)) = 2/36 for T = 3. 20,000
    # draws determine both to 0.005.
    rule, embedding = RandomTeacherWeighting(3), torch.zeros(20_000, 2)
    weights = rule(embedding)
    torch.testing.assert_close(weights.mean(dim=0), torch.full((3,), 1 / 3), rtol=0, atol=5e-3)
    torch.testing.assert_close(weights.var(dim=0), torch.full((3,), 2 / 36), rtol=0, atol=5e-3)
    assert not torch.equal(weights, rule(embedding))


def test_confidence_weighting_equals_the_value_by_hand() -> None:
    # Probabilities of the label: 0.8, 0.5, 0.1. The softmax of CE = -ln p is (1/p) / sum: 1.25, 2
    # and 10 over 13.25. w = (1 - that) / 2.
    probabilities = torch.tensor([[[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]])
    weights = ConfidenceTeacherWeighting(3)(
        torch.zeros(1, 2), probabilities.log(), torch.tensor([0])
    )
    expected = [(1 - part / 13.25) / 2 for part in (1.25, 2, 10)]
    assert weights[0].tolist() == pytest.approx(expected)


def test_confidence_weighting_of_mixed_labels_uses_the_mixed_cross_entropy() -> None:
    rule, logits = ConfidenceTeacherWeighting(3), torch.randn(5, 3, 4)
    labels = torch.arange(5) % 4
    torch.testing.assert_close(
        rule(torch.zeros(5, 2), logits, F.one_hot(labels, 4).float()),
        rule(torch.zeros(5, 2), logits, labels),
    )
    half = rule(torch.zeros(1, 2), logits[:1], torch.tensor([[0.5, 0.5, 0, 0]]))
    entropy = -logits[0].log_softmax(1)[:, :2].mean(dim=1)
    torch.testing.assert_close(half[0], (1 - entropy.softmax(0)) / 2)


def test_confidence_weighting_without_labels_is_refused() -> None:
    assert ConfidenceTeacherWeighting.needs_labels
    with raises_config_error('weighting', None, 'labels', fix='another weighting'):
        ConfidenceTeacherWeighting(3)(torch.zeros(1, 2), torch.zeros(1, 3, 4))


def test_entropy_weighting_equals_the_value_by_hand() -> None:
    # Entropies ln 2 and 0 (a certain teacher, right or wrong): weights e^-ln2 : 1 = 1/2 : 1.
    logits = torch.tensor([[[0.0, 0.0], [200.0, 0.0]]])
    assert EntropyTeacherWeighting(2)(torch.zeros(1, 2), logits)[0].tolist() == pytest.approx(
        [1 / 3, 2 / 3]
    )


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('shape', [(2, 4, 5), (2, 3), None])
def test_weighting_that_needs_logits_refuses_those_of_other_teachers(
    rule: type[TeacherWeighting], shape: tuple[int, ...] | None
) -> None:
    logits = None if shape is None else torch.zeros(shape)
    built, rest = rule(3, 2), (torch.zeros(2, 2), logits, torch.tensor([0, 1]))
    if not rule.needs_logits:
        assert built(*rest).shape == (2, 3)
        return
    with raises_config_error('num_teachers', shape, '(N, 3, C)'):
        built(*rest)


@pytest.mark.parametrize('shape', [(2, 5), (4,), (2, 4, 1)])
def test_latent_weighting_refuses_an_embedding_of_another_length(shape: tuple[int, ...]) -> None:
    with raises_config_error('embed_dims', shape, '(N, 4)'):
        LatentTeacherWeighting(2, 4)(torch.zeros(shape))


def built(config: object) -> TeacherWeighting:
    return build_part(
        config,
        TeacherWeighting,
        'weighting',
        default='LatentTeacherWeighting',
        num_teachers=3,
        embed_dims=8,
    )


@pytest.mark.parametrize(
    ('config', 'key', 'found'),
    [
        ('Latent', 'weighting', 'Latent'),
        (dict(type='NoRule'), 'weighting.type', 'NoRule'),
        (dict(type='CifarResNet'), 'weighting.type', 'CifarResNet'),
        (dict(type='TeacherWeighting'), 'weighting.type', 'TeacherWeighting'),
        (dict(type='LatentTeacherWeighting', init_std=0), 'weighting.init_std', 0),
        (dict(type='LatentTeacherWeighting', embed_dims=0), 'weighting.embed_dims', 0),
        (dict(type='UniformTeacherWeighting', num_teachers=1.5), 'weighting.num_teachers', 1.5),
        (dict(type='LatentTeacherWeighting', decay=1), 'weighting.decay', 1),
    ],
)
def test_weighting_from_a_wrong_config_is_refused(config: object, key: str, found: object) -> None:
    with raises_config_error(key, found):
        built(config)


@pytest.mark.parametrize('config', [None, {}, dict(init_std=0.5)])
def test_weighting_without_a_type_is_the_latent_one(config: object) -> None:
    weighting = built(config)
    assert isinstance(weighting, LatentTeacherWeighting)
    assert weighting.factors.shape == (3, 8)


@pytest.mark.parametrize('rule', RULES)
def test_weighting_has_parameters_only_if_it_learns(rule: type[TeacherWeighting]) -> None:
    weighting = built(dict(type=rule.__name__))
    assert type(weighting) is rule and isinstance(weighting, nn.Module)
    assert weighting.learns == bool(list(weighting.parameters()))
    assert weighting.learns == (rule is LatentTeacherWeighting)
    weighting.freeze()


def test_weightings_say_what_they_need_before_they_are_built() -> None:
    needs = {rule: (rule.needs_labels, rule.needs_logits) for rule in RULES}
    assert needs == {
        ConfidenceTeacherWeighting: (True, True),
        EntropyTeacherWeighting: (False, True),
        LatentTeacherWeighting: (False, False),
        RandomTeacherWeighting: (False, False),
        UniformTeacherWeighting: (False, False),
    }
