import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import mmkd_plugin
from mmkd_plugin.models.losses import binary_soft_target_kl, soft_target_kl, soft_target_loss


def probabilities(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).softmax(dim=-1)


def test_soft_target_kl_has_the_value_derived_by_hand() -> None:
    # Temperature 2. Logits 0 and 2 log 3 become 0 and log 3, and softmax 1/4 and 3/4. The target is
    # 1/2, 1/2. KL = 1/2 log((1/2)/(1/4)) + 1/2 log((1/2)/(3/4)) = 1/2 log 2 + 1/2 log(2/3)
    # = 1/2 log(4/3).
    # The second image's prediction is its target: 0. Their mean, times 2 squared, is log(4/3).
    student = torch.tensor([[0.0, 2.0 * math.log(3.0)], [1.0, 1.0]])
    target = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    assert soft_target_kl(student, target, temperature=2.0).item() == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize('temperature', [1.0, 5.0])
def test_soft_target_kl_equals_a_loop_in_float64(temperature: float) -> None:
    student, target = torch.randn(4, 3, dtype=torch.float64), probabilities(4, 3)
    expected = 0.0
    for z, p in zip(student.tolist(), target.tolist(), strict=True):
        total = sum(math.exp(v / temperature) for v in z)
        expected += sum(
            pc * math.log(pc / (math.exp(zc / temperature) / total))
            for zc, pc in zip(z, p, strict=True)
        )
    expected *= temperature**2
    loss = soft_target_kl(student, target, temperature)
    assert loss.item() == pytest.approx(expected / 4, rel=1e-12)


def test_soft_target_kl_gradient_matches_finite_differences() -> None:
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


def test_soft_target_kl_of_a_zero_target_has_a_finite_gradient() -> None:
    # Log-probability of class 0 under equal logits is -log 3, and 1 log 1 + 0 log 0 + 0 log 0 = 0:
    # KL = log 3.
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


def test_soft_target_kl_of_the_target_itself_is_zero() -> None:
    student = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    loss = soft_target_kl(student, (student.detach() / 4.0).softmax(dim=1), temperature=4.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


def test_soft_target_kl_is_invariant_to_a_shift_of_logits_and_to_order() -> None:
    student, target = torch.randn(5, 4, dtype=torch.float64), probabilities(5, 4)
    order, loss = torch.randperm(4), soft_target_kl(student, target, 2.0)
    torch.testing.assert_close(
        soft_target_kl(student + torch.randn(5, 1, dtype=torch.float64), target, 2.0), loss
    )
    torch.testing.assert_close(soft_target_kl(student[:, order], target[:, order], 2.0), loss)


def test_soft_target_kl_at_a_high_temperature_is_logit_matching() -> None:
    # Hinton's limit: with zero-mean logits, T^2 dKL/dz tends to (z - v) / C as T grows.
    student, teacher = torch.randn(2, 1, 6, dtype=torch.float64)
    student, teacher = (student - student.mean()).requires_grad_(), teacher - teacher.mean()
    soft_target_kl(student, (teacher / 1e4).softmax(dim=1), temperature=1e4).backward()
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 6, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('n', [1, 3])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_soft_target_kl_of_large_logits_in_half_precision_is_finite(
    n: int, dtype: torch.dtype
) -> None:
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


def test_soft_target_kl_with_weights_is_the_weighted_sum() -> None:
    student, target = torch.randn(3, 4, dtype=torch.float64), probabilities(3, 4)
    each = [soft_target_kl(student[i : i + 1], target[i : i + 1], 2.0).item() for i in range(3)]
    weighted = soft_target_kl(student, target, 2.0, weights=torch.tensor([0.5, 0.0, 2.0]))
    assert weighted.item() == pytest.approx(0.5 * each[0] + 2.0 * each[2], rel=1e-12)


def test_soft_target_kl_of_no_rows_is_zero_with_a_graph() -> None:
    student = torch.zeros(0, 4, requires_grad=True)
    loss = soft_target_kl(student, torch.zeros(0, 4), 2.0, weights=torch.zeros(0))
    loss.backward()
    assert loss.item() == 0.0


def test_binary_soft_target_kl_has_the_value_derived_by_hand() -> None:
    # Temperature 2. The logit 2 log 3 becomes log 3, and its sigmoid 3/4. The target is 1/2. KL =
    # 1/2 log((1/2)/(3/4)) + 1/2 log((1/2)/(1/4)) = 1/2 log(4/3). The second class agrees: logit 0
    # is 1/2. The second row agrees altogether. The mean of both rows, times 2 squared, is log(4/3).
    student = torch.tensor([[2.0 * math.log(3.0), 0.0], [0.0, 0.0]])
    loss = binary_soft_target_kl(student, torch.full((2, 2), 0.5), temperature=2.0)
    assert loss.item() == pytest.approx(math.log(4 / 3))


def test_binary_soft_target_kl_equals_a_loop_in_float64() -> None:
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


def test_binary_soft_target_kl_of_one_class_equals_the_softmax_form() -> None:
    student, target = torch.randn(5, 1, dtype=torch.float64), torch.rand(5, 1, dtype=torch.float64)
    both = torch.cat([student, torch.zeros_like(student)], dim=1)
    expected = soft_target_kl(both, torch.cat([target, 1 - target], dim=1), 4.0)
    torch.testing.assert_close(binary_soft_target_kl(student, target, 4.0), expected)


def test_binary_soft_target_kl_gradient_matches_finite_differences() -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mixing = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    teachers = torch.rand(3, 2, 4, dtype=torch.float64)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)

    def loss(student: Tensor, mixing: Tensor) -> Tensor:
        return binary_soft_target_kl(
            student, (mixing.softmax(1)[:, :, None] * teachers).sum(1), 3.0, weights
        )

    assert torch.autograd.gradcheck(loss, (student, mixing))


def test_binary_soft_target_kl_of_equal_predictions_is_zero_and_of_permuted_classes_the_same() -> (
    None
):
    student, target = torch.randn(6, 5, dtype=torch.float64), torch.rand(6, 5, dtype=torch.float64)
    assert binary_soft_target_kl(student, (student / 2).sigmoid(), 2.0).abs() < 1e-14
    order = torch.randperm(5)
    torch.testing.assert_close(
        binary_soft_target_kl(student, target, 2.0),
        binary_soft_target_kl(student[:, order], target[:, order], 2.0),
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_binary_soft_target_kl_of_certain_targets_and_large_logits_is_finite(
    dtype: torch.dtype,
) -> None:
    student = torch.tensor([[200.0, -200.0, 0.0]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[0.0, 1.0, 1.0]], dtype=dtype, requires_grad=True)
    loss = binary_soft_target_kl(student, target, 1.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(400 + math.log(2), rel=1e-3)
    assert student.grad is not None and student.grad.isfinite().all()
    assert target.grad is not None and target.grad.isfinite().all()


def test_binary_soft_target_kl_of_no_rows_is_zero_with_a_graph() -> None:
    student = torch.zeros(0, 3, requires_grad=True)
    loss = binary_soft_target_kl(student, torch.zeros(0, 3), 1.0, torch.zeros(0))
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize('function', [soft_target_kl, binary_soft_target_kl])
@pytest.mark.parametrize('shape', [(2, 1), (3,), ()])
def test_soft_targets_with_weights_of_a_wrong_shape_are_refused(
    function: Callable[..., Tensor], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=rf'^{function.__name__}: weights must be \(2,\)') as error:
        function(torch.zeros(2, 3), torch.zeros(2, 3), 1.0, torch.ones(shape))
    assert str(error.value).endswith(f'(found weights {shape}).')


@pytest.mark.parametrize('function', [soft_target_kl, binary_soft_target_kl])
def test_soft_targets_at_an_integer_temperature_equal_those_at_a_float(
    function: Callable[..., Tensor],
) -> None:
    student, target = torch.randn(4, 3), probabilities(4, 3)
    assert torch.equal(function(student, target, 4), function(student, target, 4.0))


def test_soft_target_loss_chooses_by_the_activation() -> None:
    student, target, weights = torch.randn(4, 3), probabilities(4, 3), torch.rand(4)
    for rows in (None, weights):
        softmax = soft_target_loss(student, target, 3.0, 'softmax', rows)
        sigmoid = soft_target_loss(student, target, 3.0, 'sigmoid', rows)
        assert torch.equal(softmax, soft_target_kl(student, target, 3.0, rows))
        assert torch.equal(sigmoid, binary_soft_target_kl(student, target, 3.0, rows))
        assert not torch.equal(softmax, sigmoid)
    with pytest.raises(ValueError, match=r"^soft_target_loss: activation .*found 'tanh'"):
        soft_target_loss(student, target, 3.0, 'tanh')


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_soft_target_loss_runs_no_code_of_another_file(activation: str) -> None:
    """One step of SoftTarget must be readable in few files."""
    files = set()

    def record(frame: Any, event: str, argument: Any) -> None:
        if event == 'call':
            files.add(frame.f_code.co_filename)

    student, target = torch.randn(4, 3, requires_grad=True), probabilities(4, 3)
    sys.setprofile(record)
    try:
        soft_target_loss(student, target, 4.0, activation, torch.ones(4))
    finally:
        sys.setprofile(None)
    package = Path(mmkd_plugin.__file__).parent
    own = {Path(file).name for file in files if Path(file).is_relative_to(package)}
    assert own == {'soft_target.py'}
