"""DIST, DKD, NKD and standardised logits against loops over the equations in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models.losses import (
    dist_loss,
    distance_loss,
    dkd_loss,
    nkd_loss,
    relation_distance_loss,
    soft_target_kl,
    standardize_logits,
)
from mmkd_plugin.models.losses.dist import dist_correlation


def pair(n: int = 6, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        2 * torch.randn(n, classes, dtype=torch.float64, generator=generator) for _ in range(2)
    )
    return student, teacher, torch.randint(0, classes, (n,), generator=generator)


def softmax(row: np.ndarray, temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


# DIST


def dist_by_loops(
    student: Tensor, teacher: Tensor, temperature: float, weights: list[float] | None = None
) -> tuple[float, float]:
    own, other = (
        np.array([softmax(row, temperature) for row in one.numpy()]) for one in (student, teacher)
    )
    n, classes = own.shape
    weights = weights or [1 / n] * n
    inter = sum(
        weight * (1 - np.corrcoef(a, b)[0, 1])
        for weight, a, b in zip(weights, own, other, strict=True)
    )
    intra = 0.0
    for k in range(classes):
        covariance = np.cov(own[:, k], other[:, k], aweights=weights, bias=True)
        intra += 1 - covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    return inter, intra / classes


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_dist_is_the_sum_of_both_correlations(temperature: float) -> None:
    student, teacher, _ = pair()
    inter, intra = dist_by_loops(student, teacher, temperature)
    found = dist_loss(student, teacher, temperature, inter_weight=0.7, intra_weight=0.3)
    expected = temperature**2 * (0.7 * inter + 0.3 * intra)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_dist_with_weights_of_rows() -> None:
    student, teacher, _ = pair()
    weights = [0.3, 0.25, 0.2, 0.15, 0.1, 0.0]
    inter, intra = dist_by_loops(student, teacher, 1.0, weights)
    found = dist_correlation(student, teacher, 1.0, 1.0, torch.tensor(weights, dtype=torch.float64))
    assert found.item() == pytest.approx(inter + intra, rel=1e-10)
    doubled = torch.cat([student, student]), torch.cat([teacher, teacher])
    assert dist_loss(*doubled).item() == pytest.approx(dist_loss(student, teacher).item())


def test_dist_of_logits_that_a_shift_of_rows_separates_is_0() -> None:
    student, _, _ = pair()
    shifted = student + torch.randn(6, 1, dtype=torch.float64)
    assert dist_loss(student, shifted).item() == pytest.approx(0.0, abs=1e-12)
    assert dist_loss(student, -student).item() > 1.0


def test_dist_of_one_image_is_0_with_a_gradient_of_0() -> None:
    student = torch.randn(1, 5, requires_grad=True)
    loss = dist_loss(student, torch.randn(1, 5))
    loss.backward()
    assert loss.item() == 0.0 and not student.grad.any()


# DKD


def split(row: np.ndarray, label: int, temperature: float) -> tuple[float, list[float]]:
    """Return the probability of the label, and those of the others among themselves."""
    every = softmax(row, temperature)
    others = [value for k, value in enumerate(every) if k != label]
    return every[label], [value / sum(others) for value in others]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_dkd_is_the_weighted_sum_of_its_divergences(temperature: float) -> None:
    student, teacher, labels = pair()
    expected = 0.0
    for own, other, label in zip(student.numpy(), teacher.numpy(), labels.tolist(), strict=True):
        p_own, others_own = split(own, label, temperature)
        p, others = split(other, label, temperature)
        target = divergence([p, 1 - p], [p_own, 1 - p_own])
        expected += 1.5 * target + 6.0 * divergence(others, others_own)
    found = dkd_loss(student, teacher, labels, temperature, alpha=1.5, beta=6.0)
    assert found.item() == pytest.approx(temperature**2 * expected / 6, rel=1e-10)


def test_dkd_with_the_weights_of_soft_targets_is_their_divergence() -> None:
    """KL = target + (1 - p_y) others, image by image."""
    student, teacher, labels = pair()
    probabilities = (teacher / 2).softmax(dim=1)
    total = 0.0
    for n in range(6):
        rows = student[n : n + 1], teacher[n : n + 1], labels[n : n + 1]
        beta = 1 - probabilities[n, labels[n]].item()
        total += dkd_loss(*rows, temperature=2.0, alpha=1.0, beta=beta).item() / 6
    assert total == pytest.approx(soft_target_kl(student, probabilities, 2.0).item(), rel=1e-10)


@pytest.mark.parametrize('scale', [1e2, 1e4])
def test_dkd_of_large_logits_keeps_what_the_other_classes_say(scale: float) -> None:
    labels = torch.tensor([0])
    student = torch.tensor([[scale, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[scale, 1.0, 0.0]])
    loss = dkd_loss(student, teacher, labels, temperature=1.0, beta=1.0)
    p = 1 / (1 + math.exp(-1.0))
    assert loss.item() == pytest.approx(divergence([p, 1 - p], [0.5, 0.5]), rel=1e-4)
    loss.backward()
    assert student.grad.isfinite().all() and student.grad[0, 1] < 0


# NKD


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_nkd_is_both_cross_entropies(temperature: float) -> None:
    student, teacher, labels = pair()
    expected = 0.0
    for own, other, label in zip(student.numpy(), teacher.numpy(), labels.tolist(), strict=True):
        expected -= softmax(other, 1.0)[label] * math.log(softmax(own, 1.0)[label])
        _, others_own = split(own, label, temperature)
        _, others = split(other, label, temperature)
        among = sum(a * math.log(b) for a, b in zip(others, others_own, strict=True))
        expected -= 1.5 * temperature**2 * among
    found = nkd_loss(student, teacher, labels, temperature)
    assert found.item() == pytest.approx(expected / 6, rel=1e-10)


def test_gradient_of_nkd_at_the_teacher_itself_is_that_of_the_target_class_alone() -> None:
    _, teacher, labels = pair()
    student = teacher.clone().requires_grad_()
    nkd_loss(student, teacher, labels).backward()
    own = teacher.clone().requires_grad_()
    p = own.softmax(dim=1).gather(1, labels[:, None])
    (-(p.detach() * p.log()).sum() / 6).backward()
    torch.testing.assert_close(student.grad, own.grad)


# Standardised logits


def test_standardised_logits_have_mean_0_and_deviation_1() -> None:
    logits = 7 * torch.randn(4, 3, 6, dtype=torch.float64) + 2
    found = standardize_logits(logits)
    torch.testing.assert_close(found.mean(dim=-1), torch.zeros(4, 3, dtype=torch.float64))
    torch.testing.assert_close(found.std(dim=-1), torch.ones(4, 3, dtype=torch.float64))
    torch.testing.assert_close(standardize_logits(3 * logits - 5), found)


@pytest.mark.parametrize('logits', [torch.zeros(2, 4), torch.full((2, 4), 1e4), torch.ones(3, 1)])
def test_standardised_logits_of_equal_values_are_0(logits: Tensor) -> None:
    logits = logits.clone().requires_grad_()
    found = standardize_logits(logits)
    assert not found.any()
    found.sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_standardised_logits_of_half_precision_are_float32(dtype: torch.dtype) -> None:
    logits = (400 * torch.randn(2, 5)).to(dtype)
    found = standardize_logits(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, standardize_logits(logits.float()))


def test_names_of_the_literature() -> None:
    one, other = torch.randn(4, 3), torch.randn(4, 5)
    assert torch.equal(relation_distance_loss(one, other), distance_loss(one, other))


@pytest.mark.parametrize('loss', [dist_loss, dkd_loss, nkd_loss])
def test_gradients_are_those_of_finite_differences(loss: object) -> None:
    student, teacher, labels = pair(3, 4)
    others = () if loss is dist_loss else (labels,)
    assert torch.autograd.gradcheck(
        lambda own: loss(own, teacher, *others, 2.0), (student.requires_grad_(),)
    )


@pytest.mark.parametrize('labels', [torch.zeros(6), torch.zeros(6, 5), torch.zeros(5).long()])
def test_labels_that_are_no_indices_are_refused(labels: Tensor) -> None:
    student, teacher, _ = pair()
    for loss in (dkd_loss, nkd_loss):
        with pytest.raises(ValueError, match='class indices'):
            loss(student, teacher, labels)


def test_student_that_follows_the_gradient_learns_the_teacher() -> None:
    _, teacher, labels = pair()
    for loss in (dist_loss, dkd_loss):
        student = torch.zeros_like(teacher).normal_().requires_grad_()
        others = () if loss is dist_loss else (labels,)
        optimizer = torch.optim.Adam([student], lr=0.05)
        for _ in range(600):
            optimizer.zero_grad()
            loss(student, teacher, *others, 1.0).backward()
            optimizer.step()
        assert F.softmax(student, 1).argmax(1).equal(teacher.argmax(1)), loss.__name__
