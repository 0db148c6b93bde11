import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models.losses import SoftTargetKL, soft_target_kl


def probabilities(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).softmax(dim=-1)


def test_value_derived_by_hand() -> None:
    # Temperature 2. Logits 0 and 2 log 3 become 0 and log 3, and softmax 1/4 and 3/4. The target is 1/2, 1/2.
    # KL = 1/2 log((1/2)/(1/4)) + 1/2 log((1/2)/(3/4)) = 1/2 log 2 + 1/2 log(2/3) = 1/2 log(4/3).
    # The second image's prediction is its target: 0. Their mean, times 2 squared, is log(4/3).
    student = torch.tensor([[0.0, 2.0 * math.log(3.0)], [1.0, 1.0]])
    target = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    assert soft_target_kl(student, target, temperature=2.0).item() == pytest.approx(math.log(4 / 3))
    # The mean over the 2 * 2 entries is half of the mean over the 2 images.
    assert soft_target_kl(student, target, 2.0, reduction='mean').item() == pytest.approx(
        math.log(4 / 3) / 2
    )


@pytest.mark.parametrize('temperature', [1.0, 5.0])
def test_agrees_with_a_loop_in_float64(temperature: float) -> None:
    student, target = torch.randn(4, 3, dtype=torch.float64), probabilities(4, 3)
    expected = 0.0
    for z, p in zip(student.tolist(), target.tolist(), strict=True):
        total = sum(math.exp(v / temperature) for v in z)
        expected += sum(
            pc * math.log(pc / (math.exp(zc / temperature) / total))
            for zc, pc in zip(z, p, strict=True)
        )
    expected *= temperature**2
    loss, mean = (
        soft_target_kl(student, target, temperature),
        soft_target_kl(student, target, temperature, 'mean'),
    )
    assert [loss.item(), mean.item()] == pytest.approx([expected / 4, expected / 12], rel=1e-12)


def test_gradient_reaches_the_student_and_a_target_that_is_learned() -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    teachers = probabilities(3, 2, 4)

    def loss(student: Tensor, weights: Tensor) -> Tensor:
        return soft_target_kl(
            student, (weights.softmax(1)[:, :, None] * teachers).sum(1), temperature=3.0
        )

    assert torch.autograd.gradcheck(loss, (student, weights))
    target = probabilities(3, 4).requires_grad_()
    soft_target_kl(student, target.detach(), 3.0).backward()
    assert target.grad is None


def test_a_target_of_zero_costs_nothing_and_its_gradient_is_finite() -> None:
    # Log-probability of class 0 under equal logits is -log 3, and 1 log 1 + 0 log 0 + 0 log 0 = 0: KL = log 3.
    student, target = (
        torch.zeros(1, 3, requires_grad=True),
        torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True),
    )
    loss = soft_target_kl(student, target, temperature=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert target.grad is not None and target.grad.isfinite().all()
    assert (
        target.grad[0, 1:] < -80
    ).all()  # away from zero is steeply down: log p tends to minus infinity
    assert student.grad is not None and student.grad[0].tolist() == pytest.approx(
        [1 / 3 - 1, 1 / 3, 1 / 3]
    )


def test_zero_where_the_prediction_is_the_target() -> None:
    student = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    loss = soft_target_kl(student, (student.detach() / 4.0).softmax(dim=1), temperature=4.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


def test_blind_to_a_shift_of_an_images_logits_and_to_the_order_of_classes() -> None:
    student, target = torch.randn(5, 4, dtype=torch.float64), probabilities(5, 4)
    order, loss = torch.randperm(4), soft_target_kl(student, target, 2.0)
    torch.testing.assert_close(
        soft_target_kl(student + torch.randn(5, 1, dtype=torch.float64), target, 2.0), loss
    )
    torch.testing.assert_close(soft_target_kl(student[:, order], target[:, order], 2.0), loss)


def test_hot_and_centred_it_pulls_like_logit_matching() -> None:
    # Hinton's limit: with zero-mean logits, T^2 dKL/dz tends to (z - v) / C as T grows; the mean over N = 1 changes nothing.
    student, teacher = torch.randn(2, 1, 6, dtype=torch.float64)
    student, teacher = (student - student.mean()).requires_grad_(), teacher - teacher.mean()
    soft_target_kl(student, (teacher / 1e4).softmax(dim=1), temperature=1e4).backward()
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 6, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('n', [1, 3])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_narrow_inputs_are_computed_in_float32(n: int, dtype: torch.dtype) -> None:
    student = (1e3 * torch.randn(n, 5)).to(dtype).requires_grad_()
    target = F.one_hot(torch.arange(n), 5).to(dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = soft_target_kl(student, target, temperature=2.0)
    loss.backward()
    assert (
        loss.dtype == torch.float32
        and loss.item() == soft_target_kl(student.float(), target.float(), 2.0).item()
    )
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ('student', 'target', 'message'),
    [
        ((4, 3), (4, 1), r'student \(4, 3\), target \(4, 1\)'),
        ((4,), (4,), r'student \(4,\), target \(4,\)'),
    ],
)
def test_shapes_are_named_in_the_error(
    student: tuple[int, ...], target: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        soft_target_kl(torch.randn(student), torch.rand(target), 2.0)


@pytest.mark.parametrize('temperature', [0.0, -1.0, math.nan, math.inf])
def test_temperature_must_be_positive_and_finite(temperature: float) -> None:
    with pytest.raises(ValueError, match='temperature: expected a number > 0, got'):
        soft_target_kl(torch.randn(4, 3), torch.rand(4, 3), temperature)
    with pytest.raises(ValueError, match='temperature: expected a number > 0, got'):
        SoftTargetKL(temperature)


def test_reduction_must_be_known() -> None:
    with pytest.raises(
        ValueError, match="reduction: expected one of 'batchmean', 'mean', got 'sum'"
    ):
        SoftTargetKL(2.0, reduction='sum')


@pytest.mark.parametrize('loss_weight', [-1.0, math.nan])
def test_a_negative_weight_is_refused(loss_weight: float) -> None:
    with pytest.raises(ValueError, match='loss_weight: expected a number >= 0, got'):
        SoftTargetKL(2.0, loss_weight=loss_weight)


def test_module_is_the_weighted_function() -> None:
    student, target = torch.randn(4, 3), probabilities(4, 3, dtype=torch.float32)
    expected = 2.5 * soft_target_kl(student, target, 3.0, reduction='mean')
    torch.testing.assert_close(
        SoftTargetKL(3.0, loss_weight=2.5, reduction='mean')(student, target), expected
    )


def test_rows_may_count_differently() -> None:
    student, target = torch.randn(3, 4, dtype=torch.float64), probabilities(3, 4)
    each = [soft_target_kl(student[i : i + 1], target[i : i + 1], 2.0).item() for i in range(3)]
    weighted = soft_target_kl(student, target, 2.0, weights=torch.tensor([0.5, 0.0, 2.0]))
    assert weighted.item() == pytest.approx(0.5 * each[0] + 2.0 * each[2], rel=1e-12)
    mean = soft_target_kl(student, target, 2.0, 'mean', weights=torch.tensor([0.5, 0.0, 2.0]))
    assert mean.item() == pytest.approx(weighted.item() / 4, rel=1e-12)
    nothing = soft_target_kl(
        torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4), 2.0, weights=torch.zeros(0)
    )
    nothing.backward()
    assert nothing.item() == 0.0
    with pytest.raises(ValueError, match=r'^weights: expected one for each of 3 rows, got \(4,\)'):
        soft_target_kl(student, target, 2.0, weights=torch.ones(4))
