"""A step of mutual learning against its peers' plain steps, in time and in peak memory."""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS, init_default_scope

from benchmarks.measure import STATUS, Result, kib, ratio, seconds_in_turns
from benchmarks.steps import batch_of, classifier, forward, step
from mmkd_plugin.engine.optim_wrappers import PeerOptimWrappers

SGD = dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=5e-4)


def measure_mutual(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    """Deep mutual learning of two peers at CIFAR's size, in both orders."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    depths, batch = ((8, 14), 16) if quick else ((20, 32), 128)
    name = f'DML step, ResNet-{depths[0]} and {depths[1]}, batch {batch}'
    data = batch_of(batch)
    plain = [MODELS.build(classifier(depth)).to(device).train() for depth in depths]
    inputs = plain[0].data_preprocessor(data, training=True)['inputs']
    tasks = {
        order: _mutual_step(depths, order, device, data)
        for order in ('simultaneous', 'alternating')
    }
    tasks |= {
        f'step {depth}': step(network, data) for depth, network in zip(depths, plain, strict=True)
    }
    tasks |= {
        f'forward {depth}': forward(network, inputs)
        for depth, network in zip(depths, plain, strict=True)
    }
    seconds = seconds_in_turns(tasks, repeats, device)
    steps, forwards = (_sums(seconds, what) for what in ('step', 'forward'))
    at_most = None if quick else 1.05
    simultaneous = [
        whole / parts for whole, parts in zip(seconds['simultaneous'], steps, strict=True)
    ]
    alternating = [
        whole / (parts + asked)
        for whole, parts, asked in zip(seconds['alternating'], steps, forwards, strict=True)
    ]
    return [
        ratio(f'{name}, simultaneous: of the plain steps', simultaneous, at_most),
        ratio(f'{name}, alternating: of these and two forwards', alternating, at_most),
        *_memory(depths, batch, name, device, at_most),
    ]


def _sums(seconds: dict[str, list[float]], what: str) -> list[float]:
    return [
        sum(parts)
        for parts in zip(
            *(own for task, own in seconds.items() if task.startswith(what)), strict=True
        )
    ]


def _mutual_step(
    depths: Sequence[int], order: str, device: torch.device, data: dict[str, Any]
) -> Callable[[], object]:
    model = MODELS.build(
        dict(
            type='mmkd_plugin.MutualDistiller',
            peers=[classifier(depth) for depth in depths],
            methods=dict(dml=dict(type='SoftTarget', temperature=1.0)),
            order=order,
            probe_shape=(3, 32, 32),
        )
    )
    model.to(device).train()
    wrappers = PeerOptimWrappers(dict(optimizer=SGD))(model)
    return lambda: model.train_step(dict(data), wrappers)


def _memory(
    depths: Sequence[int], batch: int, name: str, device: torch.device, bound: float | None
) -> list[Result]:
    if device.type == 'cpu' and not STATUS.exists():
        return [Result(f'{name}: memory', None, 'not measured: no /proc')]
    peaks = {}
    for task in ('plain', 'alternating', 'simultaneous'):
        with multiprocessing.get_context('spawn').Pool(
            1
        ) as pool:  # a fresh process: no earlier peak is in the way
            peaks[task] = pool.apply(_peak, (depths, batch, task, device.type))
    orders = {order: peaks[order] / peaks['plain'] for order in ('alternating', 'simultaneous')}
    return [
        ratio(
            f'{name}, alternating: memory of its largest peer’s step',
            [orders['alternating']],
            bound,
        ),
        ratio(f'{name}, simultaneous: memory of its largest peer’s step', [orders['simultaneous']]),
    ]


def _peak(depths: Sequence[int], batch: int, task: str, kind: str) -> float:
    """MiB that one step adds to the memory after a small one: models, momenta, libraries."""
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    device = torch.device(kind)
    small, data = batch_of(2), batch_of(batch)
    if task == 'plain':
        model = MODELS.build(classifier(max(depths))).to(device).train()
        first, second = step(model, small), step(model, data)
    else:
        first, second = (_mutual_step(depths, task, device, part) for part in (small, data))
    first()
    if kind == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        second()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    before = kib('VmRSS')
    second()
    return (kib('VmHWM') - before) / 1024
