import math

import pytest
import torch
from torch import Tensor

from mmkd_plugin.models.losses import BinarySoftTargetKL, binary_soft_target_kl, soft_target_kl


def test_value_derived_by_hand() -> None:
    # Temperature 2. The logit 2 log 3 becomes log 3, and its sigmoid 3/4. The target is 1/2.
    # KL = 1/2 log((1/2)/(3/4)) + 1/2 log((1/2)/(1/4)) = 1/2 log(4/3). The second class agrees: logit 0 is 1/2.
    # The second row agrees altogether. The mean of both rows, times 2 squared, is log(4/3).
    student = torch.tensor([[2.0 * math.log(3.0), 0.0], [0.0, 0.0]])
    loss = binary_soft_target_kl(student, torch.full((2, 2), 0.5), temperature=2.0)
    assert loss.item() == pytest.approx(math.log(4 / 3))


def test_agrees_with_a_loop_in_float64() -> None:
    student, target = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    weights = torch.tensor([0.1, 0.0, 0.7, 2.0], dtype=torch.float64)
    rows = []
    for z, p in zip(student.tolist(), target.tolist(), strict=True):
        q = [1 / (1 + math.exp(-zc / 3)) for zc in z]
        rows.append(
            9
            * sum(
                a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
                for a, b in zip(p, q, strict=True)
            )
        )
    assert binary_soft_target_kl(student, target, 3.0).item() == pytest.approx(
        sum(rows) / 4, rel=1e-12
    )
    expected = sum(w * row for w, row in zip(weights.tolist(), rows, strict=True))
    assert binary_soft_target_kl(student, target, 3.0, weights).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_one_class_is_the_softmax_of_its_logit_and_zero() -> None:
    student, target = torch.randn(5, 1, dtype=torch.float64), torch.rand(5, 1, dtype=torch.float64)
    both = torch.cat([student, torch.zeros_like(student)], dim=1)
    expected = soft_target_kl(both, torch.cat([target, 1 - target], dim=1), 4.0)
    torch.testing.assert_close(binary_soft_target_kl(student, target, 4.0), expected)


def test_gradient_reaches_the_student_and_a_target_that_is_learned() -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mixing = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    teachers = torch.rand(3, 2, 4, dtype=torch.float64)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)

    def loss(student: Tensor, mixing: Tensor) -> Tensor:
        return binary_soft_target_kl(
            student, (mixing.softmax(1)[:, :, None] * teachers).sum(1), 3.0, weights
        )

    assert torch.autograd.gradcheck(loss, (student, mixing))


def test_equal_predictions_cost_nothing_and_classes_may_be_permuted() -> None:
    student, target = torch.randn(6, 5, dtype=torch.float64), torch.rand(6, 5, dtype=torch.float64)
    assert binary_soft_target_kl(student, (student / 2).sigmoid(), 2.0).abs() < 1e-14
    order = torch.randperm(5)
    torch.testing.assert_close(
        binary_soft_target_kl(student, target, 2.0),
        binary_soft_target_kl(student[:, order], target[:, order], 2.0),
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_certain_targets_and_large_logits_stay_finite(dtype: torch.dtype) -> None:
    student = torch.tensor([[200.0, -200.0, 0.0]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[0.0, 1.0, 1.0]], dtype=dtype, requires_grad=True)
    loss = binary_soft_target_kl(student, target, 1.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(400 + math.log(2), rel=1e-3)
    assert student.grad is not None and student.grad.isfinite().all()
    assert target.grad is not None and target.grad.isfinite().all()


def test_no_row_at_all_gives_zero_with_a_graph() -> None:
    student = torch.zeros(0, 3, requires_grad=True)
    loss = binary_soft_target_kl(student, torch.zeros(0, 3), 1.0, torch.zeros(0))
    loss.backward()
    assert loss.item() == 0.0


def test_shapes_and_numbers_that_do_not_fit_are_named() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r'got student \(2, 3\), target \(2, 4\)'):
        binary_soft_target_kl(x, torch.zeros(2, 4), 1.0)
    with pytest.raises(
        ValueError, match=r'^weights: expected one for each of 2 rows, got \(2, 1\)'
    ):
        binary_soft_target_kl(x, x, 1.0, torch.ones(2, 1))
    with pytest.raises(ValueError, match=r'^temperature: expected a number > 0, got 0'):
        binary_soft_target_kl(x, x, 0.0)
    with pytest.raises(ValueError, match=r'^loss_weight: expected a number >= 0, got -1'):
        BinarySoftTargetKL(1.0, loss_weight=-1)


def test_the_module_multiplies_by_its_weight() -> None:
    student, target, weights = torch.randn(2, 3), torch.rand(2, 3), torch.tensor([0.3, 0.7])
    got = BinarySoftTargetKL(temperature=2.0, loss_weight=0.5)(student, target, weights)
    torch.testing.assert_close(got, 0.5 * binary_soft_target_kl(student, target, 2.0, weights))
