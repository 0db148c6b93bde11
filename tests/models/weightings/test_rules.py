import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.models.weightings import (
    ConfidenceTeacherWeighting,
    EntropyTeacherWeighting,
    LatentTeacherWeighting,
    RandomTeacherWeighting,
    TeacherWeighting,
    UniformTeacherWeighting,
    build_weighting,
)

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
def test_rows_are_distributions_over_teachers(
    rule: type[TeacherWeighting], count: int, n: int, dtype: torch.dtype
) -> None:
    weights = rule(count, 8)(
        torch.randn(n, 8).to(dtype), torch.randn(n, count, 5).to(dtype), torch.arange(n) % 5
    )
    assert weights.shape == (n, count)
    assert weights.dtype == torch.float32
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(n))


def test_latent_score_by_hand() -> None:
    # v = (1, 2), theta = (1, 0), (0, 1), A = (3, 1): scores v . (theta * A) = 3 and 2, so w_0 = 1 / (1 + e^-1).
    rule = LatentTeacherWeighting(2, 2)
    rule.load_state_dict(
        {**rule.state_dict(), 'factors': torch.eye(2), 'direction': torch.tensor([1.0, 2.0])}
    )
    assert rule(torch.tensor([[3.0, 1.0]]))[0, 0].item() == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize('dims', [64, 2048])
def test_latent_weights_start_unsaturated_but_not_uniform(dims: int) -> None:
    # Of three weights the largest is at least 1/3; with unit variance it is hardly below 1.
    embedding = torch.randn(256, dims).relu()  # maps after ReLU
    largest = torch.cat([LatentTeacherWeighting(3, dims)(embedding).amax(dim=1) for _ in range(10)])
    assert 0.34 < largest.mean() < 0.6
    assert largest.max() < 0.95
    unit = torch.cat(
        [LatentTeacherWeighting(3, dims, init_std=1.0)(embedding).amax(dim=1) for _ in range(10)]
    )
    assert unit.mean() > 0.85


def test_latent_weights_differ_between_images_and_learn() -> None:
    rule, embedding = LatentTeacherWeighting(3, 64), torch.randn(8, 64)
    weights = rule(embedding)
    assert weights.std(dim=0).min() > 1e-3
    weights[:, 0].log().sum().backward()
    assert rule.factors.grad.abs().min() > 0
    assert rule.direction.grad.abs().min() > 0


def test_latent_zero_is_a_stationary_point_so_the_start_is_not_zero() -> None:
    rule, embedding = LatentTeacherWeighting(3, 8, init_std=1e-30), torch.randn(8, 8)
    rule(embedding)[:, 0].sum().backward()
    assert rule.factors.grad.abs().max() < 1e-20
    fresh = LatentTeacherWeighting(3, 8)
    assert fresh.factors.std() > 0.1
    assert fresh.direction.std() > 0.1


def test_latent_stays_in_float32_under_autocast() -> None:
    rule, embedding = LatentTeacherWeighting(3, 64), torch.randn(8, 64)
    with torch.autocast('cpu', torch.bfloat16):
        inside = rule(embedding)
    torch.testing.assert_close(inside, rule.double()(embedding.double()).float())


def test_frozen_weights_do_not_move_though_the_optimizer_pushes() -> None:
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


def test_uniform() -> None:
    assert UniformTeacherWeighting(4)(torch.randn(2, 3)).tolist() == [[0.25] * 4] * 2


def test_random_is_uniform_on_average_and_fresh_for_each_image_each_time() -> None:
    # The Dirichlet of ones: mean 1/T, variance (T - 1) / (T^2 (T + 1)) = 2/36 for T = 3; 20,000 draws tell both within 0.005.
    rule, embedding = RandomTeacherWeighting(3), torch.zeros(20_000, 2)
    weights = rule(embedding)
    torch.testing.assert_close(weights.mean(dim=0), torch.full((3,), 1 / 3), rtol=0, atol=5e-3)
    torch.testing.assert_close(weights.var(dim=0), torch.full((3,), 2 / 36), rtol=0, atol=5e-3)
    assert not torch.equal(weights, rule(embedding))


def test_confidence_by_hand() -> None:
    # Probabilities of the label: 0.8, 0.5, 0.1. softmax of CE = -ln p is (1/p) / sum: 1.25, 2, 10 over 13.25.
    # w = (1 - that) / 2.
    probabilities = torch.tensor([[[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]])
    weights = ConfidenceTeacherWeighting(3)(
        torch.zeros(1, 2), probabilities.log(), torch.tensor([0])
    )
    expected = [(1 - part / 13.25) / 2 for part in (1.25, 2, 10)]
    assert weights[0].tolist() == pytest.approx(expected)


def test_confidence_of_mixed_labels_is_the_mixed_cross_entropy() -> None:
    rule, logits = ConfidenceTeacherWeighting(3), torch.randn(5, 3, 4)
    labels = torch.arange(5) % 4
    torch.testing.assert_close(
        rule(torch.zeros(5, 2), logits, F.one_hot(labels, 4).float()),
        rule(torch.zeros(5, 2), logits, labels),
    )
    half = rule(torch.zeros(1, 2), logits[:1], torch.tensor([[0.5, 0.5, 0, 0]]))
    entropy = -logits[0].log_softmax(1)[:, :2].mean(dim=1)
    torch.testing.assert_close(half[0], (1 - entropy.softmax(0)) / 2)


def test_confidence_needs_labels() -> None:
    assert ConfidenceTeacherWeighting.needs_labels
    with pytest.raises(
        ValueError,
        match=r'^labels: expected labels, which ConfidenceTeacherWeighting needs, got none',
    ):
        ConfidenceTeacherWeighting(3)(torch.zeros(1, 2), torch.zeros(1, 3, 4))


def test_entropy_by_hand() -> None:
    # Entropies ln 2 and 0 (a certain teacher, right or wrong): weights e^-ln2 : 1 = 1/2 : 1.
    logits = torch.tensor([[[0.0, 0.0], [200.0, 0.0]]])
    assert EntropyTeacherWeighting(2)(torch.zeros(1, 2), logits)[0].tolist() == pytest.approx(
        [1 / 3, 2 / 3]
    )


@pytest.mark.parametrize('rule', [ConfidenceTeacherWeighting, EntropyTeacherWeighting])
def test_scores_of_other_teachers(rule: type[TeacherWeighting]) -> None:
    with pytest.raises(ValueError, match=r'^teacher_logits: expected \(N, 3, C\), got \(2, 4, 5\)'):
        rule(3)(torch.zeros(2, 2), torch.zeros(2, 4, 5), torch.tensor([0, 1]))


def test_an_embedding_of_another_length() -> None:
    with pytest.raises(
        ValueError, match=r'^embed_dims: expected an embedding \(N, 4\), got \(2, 5\)'
    ):
        LatentTeacherWeighting(2, 4)(torch.zeros(2, 5))


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ('Latent', r"^weighting: expected dict\(type='LatentTeacherWeighting', …\), got 'Latent'"),
        (dict(init_std=1), r'^weighting: expected dict\(type='),
        (
            dict(type='NoRule'),
            r"^weighting: expected a registered rule .* got \{'type': 'NoRule'\}",
        ),
        (
            dict(type='HintLoss'),
            r"^weighting: expected a registered rule and its arguments, got \{'type': 'HintLoss'\}",
        ),
        (
            dict(type='LatentTeacherWeighting', init_std=0),
            r'^weighting\.init_std: expected a number > 0, got 0',
        ),
        (
            dict(type='LatentTeacherWeighting', decay=1),
            r'^weighting: expected a registered rule and its arguments',
        ),
    ],
)
def test_what_is_no_rule(config: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_weighting(config, 2, 4)


@pytest.mark.parametrize('rule', RULES)
def test_only_the_latent_rule_has_something_to_learn(rule: type[TeacherWeighting]) -> None:
    built = build_weighting(dict(type=rule.__name__), 3, 8)
    assert isinstance(built, nn.Module)
    assert built.learns == bool(list(built.parameters())) == (rule is LatentTeacherWeighting)
    built.freeze()
