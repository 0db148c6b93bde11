import pytest
import torch

from mmkd_plugin.models.losses import logit_mimic_loss


def test_logit_mimic_loss_has_the_value_derived_by_hand() -> None:
    # Differences (1, -2) and (0, 3): squared norms 5 and 9, mean 7, half of it 3.5.
    student, teacher = (
        torch.tensor([[2.0, -1.0], [4.0, 5.0]]),
        torch.tensor([[1.0, 1.0], [4.0, 2.0]]),
    )
    assert logit_mimic_loss(student, teacher).item() == 3.5


def test_logit_mimic_loss_equals_a_loop_in_float64() -> None:
    student, teacher = (
        torch.randn(5, 3, dtype=torch.float64),
        torch.randn(5, 3, dtype=torch.float64),
    )
    expected = sum(
        (student[n, c] - teacher[n, c]).item() ** 2 for n in range(5) for c in range(3)
    ) / (2 * 5)
    assert logit_mimic_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_logit_mimic_loss_of_equal_probabilities_depends_on_the_logits() -> None:
    # The paper's example: the same probabilities, 20 apart in each of three logits. 3 * 400 / 2 =
    # 600.
    student, teacher = torch.tensor([[-10.0, 0.0, 10.0]]), torch.tensor([[10.0, 20.0, 30.0]])
    torch.testing.assert_close(student.softmax(1), teacher.softmax(1))
    assert logit_mimic_loss(student, teacher).item() == 600.0


def test_logit_mimic_loss_is_invariant_to_a_common_shift_and_to_order() -> None:
    student, teacher = (
        torch.randn(6, 4, dtype=torch.float64),
        torch.randn(6, 4, dtype=torch.float64),
    )
    order = torch.randperm(6)
    moved = logit_mimic_loss(student[order] + 3.0, teacher[order] + 3.0)
    torch.testing.assert_close(moved, logit_mimic_loss(student, teacher))
    assert logit_mimic_loss(student, student).item() == 0.0


@pytest.mark.parametrize('n', [1, 5])
def test_logit_mimic_loss_gradient_matches_finite_differences(n: int) -> None:
    student = torch.randn(n, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(n, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: logit_mimic_loss(s, teacher), (student,))


def test_logit_mimic_loss_with_weights_is_the_weighted_sum() -> None:
    # Half the squares: 1/2 * 4 and 1/2 * 9, weighted by 3 and 1/3.
    loss = logit_mimic_loss(
        torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0], [3.0]]), torch.tensor([3.0, 1 / 3])
    )
    assert loss.item() == pytest.approx(3 * 2.0 + 4.5 / 3)
    with pytest.raises(ValueError, match=r'^logit_mimic_loss: weights .*found weights \(3,\)'):
        logit_mimic_loss(torch.zeros(2, 1), torch.zeros(2, 1), torch.ones(3))
