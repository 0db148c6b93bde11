import pytest
import torch
from helpers import classification as tiny
from helpers.analysis import network_of
from torch import Tensor

from mmkd_plugin.analysis.lrp import SharedSums, norm_pairs
from mmkd_plugin.analysis.relevance import relevance


def shares(
    one: list[float], other: list[float], relevance: list[float]
) -> tuple[list[float], list[float]]:
    terms = [torch.tensor(values, requires_grad=True) for values in (one, other)]
    with SharedSums():
        total = terms[0] + terms[1]
    assert torch.equal(total, terms[0].detach() + terms[1].detach())
    found = torch.autograd.grad(total, terms, torch.tensor(relevance))
    return tuple(values.tolist() for values in found)


def test_shared_sums_of_one_sign_share_by_size() -> None:
    # 3 + 1 = 4: three quarters of 8 are 6; -1 - 4 = -5: a fifth of 10 is 2; 0 + 2: nothing of 5.
    assert shares([3.0, -1.0, 0.0], [1.0, -4.0, 2.0], [8.0, 10.0, 5.0]) == (
        [6.0, 2.0, 0.0],
        [2.0, 8.0, 5.0],
    )


def test_shared_sums_give_nothing_to_the_term_against_the_result() -> None:
    # In 3 - 1 = 2 the 3 receives all, in 1 - 3 = -2 the -3.
    assert shares([3.0, 1.0], [-1.0, -3.0], [8.0, 8.0]) == ([8.0, 0.0], [0.0, 8.0])


def test_shared_sums_of_cancelling_terms_are_bounded_and_of_zeros_finite() -> None:
    assert shares([1.0, 0.0], [-0.9999999, 0.0], [1.0, 1.0]) == ([1.0, 0.0], [0.0, 0.0])


@pytest.mark.parametrize('form', ['method', 'function', 'in place'])
def test_shared_sums_cover_every_form_of_addition(form: str) -> None:
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


def test_shared_sums_leave_sums_of_other_shapes_and_outside_to_the_plain_gradient() -> None:
    x, bias = torch.tensor([[3.0, 1.0]], requires_grad=True), torch.tensor(2.0, requires_grad=True)
    with SharedSums():
        total = x + bias + 5.0 + torch.ones(1, 2)
    (to_x, to_bias) = torch.autograd.grad(total.sum(), [x, bias])
    assert to_x.tolist() == [[1.0, 1.0]]
    assert float(to_bias) == 2.0
    outside = x + x.clone()
    assert torch.autograd.grad(outside.sum(), [x])[0].tolist() == [[2.0, 2.0]]


def test_norm_pairs_are_layers_that_only_the_norm_reads() -> None:
    config = dict(
        tiny.classifier(),
        backbone=dict(type='mmkd_plugin.CifarWideResNet', depth=10, widen_factor=1),
    )
    config['head']['in_channels'] = 64
    network = network_of(tiny.network(config))
    network.request_scores()
    inputs = torch.randn(2, 3, 8, 8)
    names = {module: name for name, module in network.model.named_modules()}
    pairs = norm_pairs(network.model, lambda: network.scores(inputs.clone().requires_grad_()))
    found = {(names[layer], names[norm]) for layer, norm in pairs}
    # The outputs of the stem and of the blocks go into a sum as well as into the next norm.
    assert found == {(f'backbone.layer{n}.0.conv1', f'backbone.layer{n}.0.bn2') for n in (1, 2, 3)}
    raw = tiny.batch_of(8)
    whole = relevance(network, [raw])
    torch.testing.assert_close(
        whole.scores,
        network.scores(network.inputs(raw)).gather(1, whole.labels[:, None])[:, 0],
    )
