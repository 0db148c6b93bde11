"""The angle loss against the usual form of it: time, memory, error."""

import multiprocessing
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import STATUS, Result, kib, ratio, seconds_in_turns
from mmkd_plugin.models.losses import angle_loss

Loss = Callable[[Tensor, Tensor], Tensor]


def usual_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The usual form: normalised (N, N, D) differences and their products, mean over triplets."""

    def cosines(x: Tensor) -> Tensor:
        ends = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
        return torch.bmm(ends, ends.transpose(1, 2))

    with torch.no_grad():
        target = cosines(teacher)
    n = len(student)
    return F.huber_loss(cosines(student), target, reduction='sum') / (n * (n - 1) * (n - 2))


def measure_angle(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    """Speed and error at N=128, of embeddings and of soft targets; memory at N=512."""
    n, d, many = (16, 50, 64) if quick else (128, 1000, 512)
    embeddings, scores = _inputs(n, d, device), _inputs(n, 10, device)
    soft_targets = (scores[0] / 5).softmax(dim=1), (scores[1] / 5).softmax(dim=1)
    return [
        *_speed_and_error(
            *embeddings, f'angle loss, N={n}, D={d}', device, repeats, None if quick else 10.0
        ),
        *_speed_and_error(
            *soft_targets, f'angle loss, N={n}, 10 classes', device, repeats, None if quick else 1.0
        ),
        _memory(many, d, device, None if quick else 1024),
    ]


def _speed_and_error(
    student: Tensor,
    teacher: Tensor,
    name: str,
    device: torch.device,
    repeats: int,
    bound: float | None,
) -> list[Result]:
    forms: dict[str, Callable[[], object]] = dict(
        usual=lambda: _value_and_gradient(usual_angle_loss, student, teacher),
        ours=lambda: _value_and_gradient(angle_loss, student, teacher),
    )
    seconds = seconds_in_turns(forms, repeats, device)
    rounds = [usual / ours for usual, ours in zip(seconds['usual'], seconds['ours'], strict=True)]
    results = [ratio(f'{name}: times as fast as the usual form', rounds, at_least=bound)]
    found = _value_and_gradient(angle_loss, student, teacher)
    expected = _value_and_gradient(usual_angle_loss, student.double(), teacher.double())
    for what, ours, exact in zip(('loss', 'gradient'), found, expected, strict=True):
        error = float((ours - exact).norm() / exact.norm())
        results.append(
            Result(
                f'{name}: error of the {what}',
                error,
                f'{error:.1e}',
                '≤ 1e-5 of float64',
                error <= 1e-5,
            )
        )
    return results


def _memory(n: int, d: int, device: torch.device, bound: float | None) -> Result:
    name = f'angle loss, N={n}, D={d}: extra memory'
    if device.type == 'cuda':
        extra = _peak_on_gpu(n, d, device)
    elif STATUS.exists():
        with multiprocessing.get_context('spawn').Pool(
            1
        ) as pool:  # a fresh process: the peak of this one is behind it
            extra = pool.apply(_peak_of_process, (n, d))
    else:
        return Result(name, None, 'not measured: no /proc')
    shown = f'{extra:.0f} MiB'
    return (
        Result(name, extra, shown)
        if bound is None
        else Result(name, extra, shown, f'≤ {bound} MiB', extra <= bound)
    )


def _peak_on_gpu(n: int, d: int, device: torch.device) -> float:
    student, teacher = _inputs(n, d, device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _value_and_gradient(angle_loss, student, teacher)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _peak_of_process(n: int, d: int) -> float:
    """MiB between the memory with the inputs and the peak: an upper bound of the loss."""
    student, teacher = _inputs(n, d, torch.device('cpu'))
    _value_and_gradient(
        angle_loss, student[:8], teacher[:8]
    )  # threads and libraries have their memory now
    before = kib('VmRSS')
    _value_and_gradient(angle_loss, student, teacher)
    return (kib('VmHWM') - before) / 1024


def _inputs(n: int, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(2, n, d, generator=torch.Generator().manual_seed(0)).to(device)
    return student, teacher


def _value_and_gradient(loss: Loss, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student = student.detach().requires_grad_()
    value = loss(student, teacher)
    return value.detach(), torch.autograd.grad(value, student)[0]
