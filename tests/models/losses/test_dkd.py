import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models.losses import dkd_loss, nkd_loss, soft_target_kl
from mmkd_plugin.models.losses.dkd import dkd_rows


def softmax(row: list[float], temperature: float) -> list[float]:
    top = max(row)
    terms = [math.exp((z - top) / temperature) for z in row]
    return [e / sum(terms) for e in terms]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def without(values: list[float], index: int) -> list[float]:
    rest = [v for i, v in enumerate(values) if i != index]
    return [v / sum(rest) for v in rest]


def test_dkd_loss_has_the_value_derived_by_hand() -> None:
    # Temperature 1. Teacher (1/2, 1/4, 1/4), student (1/4, 3/8, 3/8), label 0: the others agree.
    # KL((1/2, 1/2) || (1/4, 3/4)) = 1/2 log 2 + 1/2 log(2/3) = 1/2 log(4/3).
    teacher = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    student = torch.tensor([[0.25, 0.375, 0.375]], dtype=torch.float64).log()
    loss = dkd_loss(student, teacher, torch.tensor([0]), temperature=1.0, alpha=3.0)
    assert loss.item() == pytest.approx(3 * 0.5 * math.log(4 / 3))
    # Label 1: the others are (2/3, 1/3) and (2/5, 3/5).
    expected = 2 / 3 * math.log(5 / 3) + 1 / 3 * math.log(5 / 9)
    loss = dkd_loss(student, teacher, torch.tensor([1]), temperature=1.0, alpha=0.0, beta=2.0)
    assert loss.item() == pytest.approx(2 * expected)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
@pytest.mark.parametrize(('alpha', 'beta'), [(1.0, 8.0), (0.5, 0.0), (0.0, 2.0)])
def test_dkd_loss_equals_a_loop_in_float64(temperature: float, alpha: float, beta: float) -> None:
    student, teacher = 3 * torch.randn(2, 5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2])
    expected = 0.0
    for n, y in enumerate(labels.tolist()):
        own = softmax(student[n].tolist(), temperature)
        other = softmax(teacher[n].tolist(), temperature)
        expected += alpha * divergence([other[y], 1 - other[y]], [own[y], 1 - own[y]])
        expected += beta * divergence(without(other, y), without(own, y))
    found = dkd_loss(student, teacher, labels, temperature, alpha, beta)
    assert found.item() == pytest.approx(temperature**2 * expected / 5, rel=1e-10)


def test_dkd_loss_with_the_weight_of_kl_is_kl() -> None:
    # KL = KL(b) + (1 - p_y) KL(others), with one image.
    student, teacher = torch.randn(2, 1, 6, dtype=torch.float64)
    target = (teacher / 3).softmax(1)
    label = torch.tensor([2])
    loss = dkd_loss(student, teacher, label, 3.0, alpha=1.0, beta=1 - target[0, 2].item())
    torch.testing.assert_close(loss, soft_target_kl(student, target, 3.0))


def test_dkd_rows_gradient_matches_finite_differences() -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([3, 0, 0])

    def loss(student: Tensor, target: Tensor) -> Tensor:
        return dkd_rows(student, target, labels, 1.0, 8.0)

    assert torch.autograd.gradcheck(loss, (student, target))


def test_dkd_loss_of_equal_logits_is_zero_without_gradient() -> None:
    student = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    loss = dkd_loss(student, student.detach() + 7.0, torch.arange(4))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


def test_dkd_loss_is_invariant_to_a_shift_of_logits_and_to_order() -> None:
    student, teacher = torch.randn(2, 5, 4, dtype=torch.float64)
    labels, order = torch.tensor([0, 3, 1, 1, 2]), torch.tensor([2, 0, 3, 1])
    loss = dkd_loss(student, teacher, labels)
    shift = torch.randn(5, 1, dtype=torch.float64)
    torch.testing.assert_close(dkd_loss(student + shift, teacher - shift, labels), loss)
    renamed = order.argsort()[labels]
    torch.testing.assert_close(dkd_loss(student[:, order], teacher[:, order], renamed), loss)


@pytest.mark.parametrize('function', [dkd_loss, nkd_loss])
@pytest.mark.parametrize('classes', [1, 2, 6])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_labelled_loss_of_large_logits_is_finite(
    function: object, dtype: torch.dtype, classes: int
) -> None:
    student, teacher = (1e4 * torch.randn(2, 5, classes).sign()).to(dtype)
    student.requires_grad_()
    loss = function(student, teacher, torch.arange(5) % classes)  # type: ignore[operator]
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32
    assert student.grad is not None and student.grad.isfinite().all()
    assert classes > 1 or (loss.item() == 0.0 and not student.grad.any())


def test_dkd_loss_of_a_confident_teacher_keeps_the_other_classes() -> None:
    # The others have e^-200 of the probability, which float32 rounds to 0.
    teacher = torch.tensor([[200.0, 1.0, 0.0]])
    student = torch.tensor([[200.0, 0.0, 1.0]])
    loss = dkd_loss(student, teacher, torch.tensor([0]), temperature=1.0, beta=1.0)
    p = math.e / (1 + math.e)
    assert loss.item() == pytest.approx(2 * p - 1, rel=1e-5)  # log ratios are 1 and -1


def nkd_loop(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, gamma: float
) -> float:
    total = 0.0
    for n, y in enumerate(labels.tolist()):
        rows = student[n].tolist(), teacher[n].tolist()
        own, other = (softmax(row, 1.0)[y] for row in rows)
        total -= other * math.log(own)
        q, p = (without(softmax(row, temperature), y) for row in rows)
        cross = sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        total -= gamma * temperature**2 * cross
    return total / len(labels)


@pytest.mark.parametrize('temperature', [1.0, 2.0])
@pytest.mark.parametrize('gamma', [0.0, 1.5])
def test_nkd_loss_equals_a_loop_in_float64(temperature: float, gamma: float) -> None:
    student, teacher = 3 * torch.randn(2, 5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2])
    expected = nkd_loop(student, teacher, labels, temperature, gamma)
    found = nkd_loss(student, teacher, labels, temperature, gamma)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_nkd_loss_has_the_value_derived_by_hand() -> None:
    # Temperature 2, label 0. The teacher's logits 0, 0, 2 log 3 have p = 1/11, and at temperature 2
    # the others (1/4, 3/4). The student is uniform: log 3 / 11 + 1.5 * 4 * log 2.
    teacher = torch.tensor([[0.0, 0.0, 2 * math.log(3)]], dtype=torch.float64)
    loss = nkd_loss(torch.zeros(1, 3).double(), teacher, torch.tensor([0]), temperature=2.0)
    assert loss.item() == pytest.approx(math.log(3) / 11 + 6 * math.log(2))


def test_nkd_loss_of_a_teacher_without_doubt_is_the_cross_entropy() -> None:
    student, labels = torch.randn(4, 5, dtype=torch.float64), torch.tensor([1, 0, 4, 4])
    teacher = 1e3 * F.one_hot(labels, 5).double()
    loss = nkd_loss(student, teacher, labels, gamma=0.0)
    torch.testing.assert_close(loss, F.cross_entropy(student, labels))


def test_nkd_loss_gradient_matches_finite_differences() -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher, labels = torch.randn(3, 4, dtype=torch.float64), torch.tensor([3, 0, 0])
    assert torch.autograd.gradcheck(lambda x: nkd_loss(x, teacher, labels, 2.0), (student,))


def test_nkd_loss_is_smallest_among_the_others_at_the_teachers_distribution() -> None:
    teacher = torch.randn(3, 5, dtype=torch.float64)
    student = teacher.clone().requires_grad_()
    labels = torch.tensor([0, 1, 2])
    part = nkd_loss(student, teacher, labels) - nkd_loss(student, teacher, labels, gamma=0.0)
    part.backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize('function', [dkd_loss, nkd_loss])
@pytest.mark.parametrize('labels', [torch.zeros(2), torch.zeros(2, 3), torch.zeros(3).long()])
def test_labels_that_are_no_indices_are_refused(function: object, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r'labels must be class indices \(2,\)'):
        function(torch.zeros(2, 3), torch.zeros(2, 3), labels)  # type: ignore[operator]
