"""No loss makes copies beyond a few times the tensors that it compares.

Peaks count forward and backward, in bytes over those of the student's tensor. They are exact, as
each allocation is followed. Bounds are little above them, so that one more copy breaks them.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmkd_plugin.anchors import AnchorGrid
from mmkd_plugin.models import losses
from mmkd_plugin.models.losses.fgd import fgd_focal_losses
from mmkd_plugin.models.methods import BCKD, LD
from mmkd_plugin.outputs import BoxOutputs, ClassScores, NetworkOutput, ObjectBoxes

LEVELS = ((32, 48, 1), (16, 24, 1), (8, 12, 1))
LOCATIONS = sum(rows * columns for rows, columns, _ in LEVELS)
CLASSES, BINS = 20, 17


@pytest.fixture(autouse=True)
def peak_bytes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / 'tools'))
    from benchmarks.peak import peak_bytes

    return peak_bytes


def peak(peak_bytes: Callable[..., int], loss: Callable[[], Tensor], *compared: Tensor) -> float:
    """Return the peak of a loss with its gradients, over the bytes that it compares."""
    found = peak_bytes(lambda: loss().backward())
    assert any(one.grad is not None for one in compared)
    return found / sum(one.numel() * one.element_size() for one in compared)


def fgd(student: Tensor, teacher: Tensor) -> Tensor:
    masks = torch.ones(2, len(student), 1, *student.shape[2:])
    return torch.stack(fgd_focal_losses(student, teacher, *masks)).sum()


MAPS = dict(pkd=5.0, cwd=5.0, mgd=4.0, fgd=5.2)


@pytest.mark.parametrize(('name', 'most'), MAPS.items())
def test_losses_of_maps(peak_bytes: Callable[..., int], name: str, most: float) -> None:
    student, teacher = torch.randn(2, 2, 16, 64, 64)
    student.requires_grad_()
    function = fgd if name == 'fgd' else getattr(losses, f'{name}_loss')
    assert peak(peak_bytes, lambda: function(student, teacher), student) <= most + 0.5


def labelled(function: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda student, teacher: function(student, teacher, torch.arange(len(student)))


def standardised(student: Tensor, teacher: Tensor) -> Tensor:
    own, target = (losses.standardize_logits(one) for one in (student, teacher))
    return losses.soft_target_kl(own, target.softmax(dim=1), 2.0)


LOGITS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = dict(
    standardised=(standardised, 9.0),
    dist=(losses.dist_loss, 11.1),
    dkd=(labelled(losses.dkd_loss), 10.5),
    nkd=(labelled(losses.nkd_loss), 9.5),
    hard_target=(losses.hard_target_loss, 7.0),
    binary_quality=(losses.binary_quality_loss, 7.0),
    localization=(losses.localization_loss, 5.0),
)


@pytest.mark.parametrize('name', LOGITS)
def test_losses_of_logits(peak_bytes: Callable[..., int], name: str) -> None:
    student, teacher = torch.randn(2, 64, 1000)
    student.requires_grad_()
    function, most = LOGITS[name]
    assert peak(peak_bytes, lambda: function(student, teacher), student) <= most + 0.5


def outputs(seed: int, learns: bool) -> NetworkOutput:
    """Return outputs of a dense head on two images of 256 x 384 pixels, with eight objects each."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, LOCATIONS, CLASSES, generator=generator).requires_grad_(learns)
    bins = torch.randn(2, LOCATIONS, 4, BINS, generator=generator).requires_grad_(learns)
    assigned = torch.full((2, LOCATIONS), -1)
    assigned[:, ::50] = 1
    sides = torch.tensor([384.0, 256.0])
    corners = torch.rand(2, 8, 2, generator=generator) * sides / 2
    boxes = torch.cat([corners, corners + 10 + corners / 2], dim=2)
    anchors = tuple(
        AnchorGrid(((-4.0 * stride, -4.0 * stride, 4.0 * stride, 4.0 * stride),), (stride, stride))
        for stride in (8, 16, 32)
    )
    return NetworkOutput(
        ClassScores(logits, 'sigmoid', levels=LEVELS, assigned=assigned),
        boxes=BoxOutputs(bins, 'distribution', levels=LEVELS, anchors=anchors),
        objects=ObjectBoxes(tuple(boxes), (256, 384)),
    )


METHODS: dict[str, tuple[Callable[[], BCKD | LD], float]] = dict(
    bckd=(BCKD, 4.0),
    ld=(LD, 1.0),
    ld_with_its_region=(lambda: LD(vlr_weight=0.25), 2.0),
)


@pytest.mark.parametrize('name', METHODS)
def test_methods_of_dense_heads(peak_bytes: Callable[..., int], name: str) -> None:
    make, most = METHODS[name]
    method, student, teacher = make(), outputs(0, True), outputs(1, False)
    compared = student.tensors().values()

    def loss() -> Tensor:
        return torch.stack([*method(student, [teacher], None).values()]).sum()

    assert 0 < peak(peak_bytes, loss, *compared) <= most


def test_a_copy_for_each_bin_is_found(peak_bytes: Callable[..., int]) -> None:
    student, teacher = outputs(0, True), outputs(1, False)
    assert student.boxes is not None and teacher.boxes is not None
    own, other = student.boxes.values, teacher.boxes.values

    def loss() -> Tensor:  # the softmax of all locations, where LD has that of the few it weighs
        return (own.softmax(dim=3) * (other.softmax(dim=3) - own)).mean()

    assert peak(peak_bytes, loss, *student.tensors().values()) > METHODS['ld'][1]


def test_peak_counts_what_a_call_allocates_and_frees(peak_bytes: Callable[..., int]) -> None:
    kept = [torch.zeros(100_000)]

    def call() -> Tensor:
        kept.clear()  # frees what was there before
        torch.ones(1000).mul_(2)  # freed before the next
        return torch.ones(500)

    assert 4000 <= peak_bytes(call) < 4100
    assert peak_bytes(lambda: None) == 0


def test_a_loss_in_half_precision_does_not_widen_the_whole_head(
    peak_bytes: Callable[..., int],
) -> None:
    student, teacher = outputs(0, True), outputs(1, False)
    assert student.boxes is not None and teacher.boxes is not None
    values = student.boxes.values.detach().bfloat16().requires_grad_()
    student = dataclasses.replace(student, boxes=dataclasses.replace(student.boxes, values=values))
    method = LD()
    found = peak(peak_bytes, lambda: method(student, [teacher], None)['loss_ld'], values)
    assert found < 2.0
