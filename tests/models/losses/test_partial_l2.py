import torch
from torch import Tensor

from mmkd_plugin.models.losses.partial_l2 import partial_squares_


def test_value_derived_by_hand() -> None:
    # Both off, student below (skipped) · both off, equal (skipped, and 0) · off, student above · on above zero · teacher on.
    student = torch.tensor([-3.0, -1.0, -1.0, 2.0, -1.0])
    target = torch.tensor([-1.0, -1.0, -2.0, -1.0, 1.0])
    assert partial_squares_(student - target, target).tolist() == [0.0, 0.0, 1.0, 9.0, 4.0]


def test_a_target_of_zero_pulls_down_from_above_alone() -> None:
    target = torch.zeros(2)
    assert partial_squares_(torch.tensor([-2.0, 2.0]), target).tolist() == [0.0, 4.0]


def test_gradient() -> None:
    target = torch.randn(20, dtype=torch.float64)

    def loss(student: Tensor) -> Tensor:
        return partial_squares_(student - target, target)

    student = torch.randn(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (student,))


def test_nan_is_not_hidden() -> None:
    target = torch.tensor([-1.0])
    assert partial_squares_(torch.tensor([torch.nan]), target).isnan().all()
