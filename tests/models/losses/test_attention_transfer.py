import math

import pytest
import torch

from mmkd_plugin.models.losses import attention_transfer_loss


def test_attention_transfer_loss_has_the_value_derived_by_hand() -> None:
    # Student, two channels, two pixels: mean squares (1 + 5) / 2 = 3 and (8 + 0) / 2 = 4, over 5:
    # (.6, .8). Teacher, one channel: (0, 9), over 9: (0, 1). Squared differences .36 + .04, over 2
    # pixels: .2.
    student = torch.tensor([[[[1.0, math.sqrt(8.0)]], [[-math.sqrt(5.0), 0.0]]]])
    assert attention_transfer_loss(
        student, torch.tensor([[[[0.0, -3.0]]]])
    ).item() == pytest.approx(0.2)


def test_attention_transfer_loss_of_two_sizes_pools_attention_not_features() -> None:
    # Energies of the 2x4 map: 9 everywhere on the left (the features cancel, 3 and -3), 12 on the
    # right: pooled (9, 12), over 15: (.6, .8). Against (0, 1): .2.
    root = math.sqrt(12.0)
    large = torch.tensor([[[[3.0, -3.0, root, root], [-3.0, 3.0, root, root]]]])
    small = torch.tensor([[[[0.0, 2.0]]]])
    assert attention_transfer_loss(large, small).item() == pytest.approx(0.2)
    assert attention_transfer_loss(small, large).item() == pytest.approx(0.2)


def test_attention_transfer_loss_equals_a_loop_in_float64() -> None:
    student, teacher = (
        torch.randn(3, 2, 3, 4, dtype=torch.float64),
        torch.randn(3, 5, 3, 4, dtype=torch.float64),
    )

    def attention(features: torch.Tensor) -> list[float]:
        channels, height, width = features.shape
        pixels = [(y, x) for y in range(height) for x in range(width)]
        energy = [
            sum(features[c, y, x].item() ** 2 for c in range(channels)) / channels
            for y, x in pixels
        ]
        norm = math.sqrt(sum(e * e for e in energy))
        return [e / norm for e in energy]

    pairs = [
        p
        for s, t in zip(student, teacher, strict=True)
        for p in zip(attention(s), attention(t), strict=True)
    ]
    expected = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    assert len(pairs) == 36
    assert attention_transfer_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_attention_transfer_loss_is_invariant_to_scale_sign_channels_and_order() -> None:
    student, teacher = (
        torch.randn(4, 3, 2, 2, dtype=torch.float64),
        torch.randn(4, 5, 2, 2, dtype=torch.float64),
    )
    scale = torch.tensor([1e-2, 1.0, 7.0, 1e3], dtype=torch.float64).view(4, 1, 1, 1)
    loss = attention_transfer_loss(student, teacher)
    images, channels = torch.randperm(4), torch.randperm(3)
    torch.testing.assert_close(attention_transfer_loss(-scale * student, teacher), loss)
    torch.testing.assert_close(attention_transfer_loss(student, teacher.repeat(1, 2, 1, 1)), loss)
    torch.testing.assert_close(
        attention_transfer_loss(student[images][:, channels], teacher[images]), loss
    )
    assert attention_transfer_loss(scale * student, student).item() == pytest.approx(0.0, abs=1e-12)


def test_attention_transfer_loss_of_disjoint_attention_is_two_over_the_pixels() -> None:
    # All attention at one pixel against all at another: 1 + 1, over 4 pixels.
    student, teacher = (
        torch.tensor([[[[5.0, 0.0], [0.0, 0.0]]]]),
        torch.tensor([[[[0.0, 0.0], [0.0, 2.0]]]]),
    )
    assert attention_transfer_loss(student, teacher).item() == 0.5


@pytest.mark.parametrize('shapes', [((1, 2, 2, 2), (1, 3, 2, 2)), ((2, 3, 4, 2), (2, 1, 2, 4))])
def test_attention_transfer_loss_gradient_matches_finite_differences(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    student, teacher = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: attention_transfer_loss(s, teacher), (student,))


@pytest.mark.parametrize('n', [1, 2])
def test_attention_transfer_loss_of_a_zero_map_has_no_gradient(n: int) -> None:
    # The teacher's constant map, 1/2 in each of 4 pixels, against zeros: 1/4.
    student = torch.zeros(n, 3, 2, 2, requires_grad=True)
    loss = attention_transfer_loss(student, torch.ones(n, 5, 2, 2))
    loss.backward()
    assert loss.item() == 0.25
    assert student.grad is not None and (student.grad == 0.0).all()
    assert attention_transfer_loss(student, torch.zeros(n, 5, 2, 2)).item() == 0.0
