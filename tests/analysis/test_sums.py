import pytest
import torch
from torch import Tensor

from mmkd_plugin.analysis.sums import SharedSums


def shares(
    one: list[float], other: list[float], relevance: list[float]
) -> tuple[list[float], list[float]]:
    terms = [torch.tensor(values, requires_grad=True) for values in (one, other)]
    with SharedSums():
        total = terms[0] + terms[1]
    assert torch.equal(total, terms[0].detach() + terms[1].detach())
    found = torch.autograd.grad(total, terms, torch.tensor(relevance))
    return tuple(values.tolist() for values in found)


def test_terms_of_one_sign_share_by_size() -> None:
    # 3 + 1 = 4: three quarters of 8 are 6; -1 - 4 = -5: a fifth of 10 is 2; 0 + 2: nothing of 5.
    assert shares([3.0, -1.0, 0.0], [1.0, -4.0, 2.0], [8.0, 10.0, 5.0]) == (
        [6.0, 2.0, 0.0],
        [2.0, 8.0, 5.0],
    )


def test_what_speaks_against_the_sum_gets_nothing() -> None:
    # 3 - 1 = 2 is owed to the 3 alone, 1 - 3 = -2 to the -3 alone.
    assert shares([3.0, 1.0], [-1.0, -3.0], [8.0, 8.0]) == ([8.0, 0.0], [0.0, 8.0])


def test_nearly_cancelling_terms_stay_bounded_and_two_zeros_are_finite() -> None:
    assert shares([1.0, 0.0], [-0.9999999, 0.0], [1.0, 1.0]) == ([1.0, 0.0], [0.0, 0.0])


@pytest.mark.parametrize('form', ['method', 'function', 'in place'])
def test_every_plus_sign_is_met(form: str) -> None:
    x = torch.tensor([3.0], requires_grad=True)
    y = torch.tensor([1.0], requires_grad=True)

    def add(a: Tensor, b: Tensor) -> Tensor:
        if form == 'in place':
            a = a * 1.0
            a += b
            return a
        return torch.add(a, b) if form == 'function' else a.add(b)

    with SharedSums():
        total = add(x, y)
    assert [float(value) for value in torch.autograd.grad(total, [x, y], torch.tensor([8.0]))] == [
        6.0,
        2.0,
    ]


def test_other_sums_and_sums_outside_have_their_gradient() -> None:
    x, bias = torch.tensor([[3.0, 1.0]], requires_grad=True), torch.tensor(2.0, requires_grad=True)
    with SharedSums():
        total = x + bias + 5.0 + torch.ones(1, 2)
    (to_x, to_bias) = torch.autograd.grad(total.sum(), [x, bias])
    assert to_x.tolist() == [[1.0, 1.0]]
    assert float(to_bias) == 2.0
    outside = x + x.clone()
    assert torch.autograd.grad(outside.sum(), [x])[0].tolist() == [[2.0, 2.0]]
