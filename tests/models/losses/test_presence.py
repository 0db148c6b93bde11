import math

import pytest
import torch
from torch import Tensor

from mmkd_plugin.models.losses import presence_loss


def test_presence_loss_has_the_value_derived_by_hand() -> None:
    # Image 0 has locations (1/2, 1/4) and (1/8, 3/4), maxima 1/2 and 3/4. It has the first class
    # alone: -log(1/2) - log(1 - 3/4) = log 2 + log 4 = 3 log 2. Image 1 has no location: no term.
    # Image 2 has (1/2, 1/2) and no class: 2 log 2. The mean of 2 images and 2 classes: 5/4 log 2.
    probs = torch.tensor([[0.5, 0.25], [0.125, 0.75], [0.5, 0.5]])
    present = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    loss = presence_loss(probs, torch.tensor([0, 0, 2]), present)
    assert loss.item() == pytest.approx(1.25 * math.log(2))


def test_presence_loss_equals_a_loop_in_float64() -> None:
    probs, images = torch.rand(9, 3, dtype=torch.float64), torch.randint(0, 4, (9,))
    present = (torch.rand(4, 3) > 0.5).double()
    terms = []
    for n in sorted(set(images.tolist())):
        for c in range(3):
            m = max(
                float(p[c]) for p, image in zip(probs, images.tolist(), strict=True) if image == n
            )
            terms.append(-math.log(m if present[n, c] else 1 - m))
    assert presence_loss(probs, images, present).item() == pytest.approx(
        sum(terms) / len(terms), rel=1e-12
    )


def test_presence_loss_gradient_reaches_the_largest_probabilities_alone() -> None:
    images, present = torch.tensor([0, 0, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    probs = torch.tensor(
        [[0.5, 0.2], [0.3, 0.6], [0.4, 0.9]], dtype=torch.float64, requires_grad=True
    )

    def loss(probs: Tensor) -> Tensor:
        return presence_loss(probs, images, present)

    assert torch.autograd.gradcheck(loss, probs)
    loss(probs).backward()
    assert (probs.grad != 0).tolist() == [[True, False], [False, True], [True, True]]


def test_presence_loss_is_invariant_to_the_order_of_locations() -> None:
    probs, images, order = torch.rand(6, 2), torch.tensor([0, 0, 1, 1, 1, 2]), torch.randperm(6)
    present = torch.eye(3)[:, :2]
    one = presence_loss(probs, images, present)
    torch.testing.assert_close(one, presence_loss(probs[order], images[order], present))


def test_presence_loss_without_locations_is_zero_and_of_certainty_finite() -> None:
    empty = torch.zeros(0, 2, requires_grad=True)
    loss = presence_loss(empty, torch.zeros(0, dtype=torch.long), torch.ones(2, 2))
    loss.backward()
    assert loss.item() == 0.0
    certain = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = presence_loss(certain, torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert certain.grad is not None and certain.grad.isfinite().all()
