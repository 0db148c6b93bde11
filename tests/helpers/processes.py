"""Functions that two gloo processes run; ``spawn`` finds them because they are module-level."""

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, multiprocessing, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from helpers import classification as tiny
from helpers.checkpoints import state_of
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.run_model import unwrap

Calls = dict[str, tuple[Any, ...]]


def in_two(folder: Path, calls: Calls) -> list[dict[str, Any]]:
    """Call functions in two gloo processes.

    Args:
        folder: For files; each call gets a folder of its own as first argument.
        calls: ``name: (function, *arguments)``.

    Returns:
        The results by name, of each rank.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_process, (port, folder, calls), nprocs=2)
    return [torch.load(folder / f'rank{rank}.pt', weights_only=False) for rank in range(2)]


def _process(rank: int, port: int, folder: Path, calls: Calls) -> None:
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    try:
        results = {
            name: function(folder / name, *arguments)
            for name, (function, *arguments) in calls.items()
        }
        torch.save(results, folder / f'rank{rank}.pt')
    finally:
        torch.distributed.destroy_process_group()


def excess(found: Any, expected: Any, rtol: float, atol: float) -> float:
    """Return the largest difference of two dicts of tensors or numbers, in units of the tolerance.

    An element differs by |found - expected| / (atol + rtol |expected|); a result above 1 fails.
    """
    assert found.keys() == expected.keys()
    ratios = [0.0]
    for name, value in expected.items():
        one, other = torch.as_tensor(found[name]).double(), torch.as_tensor(value).double()
        assert one.shape == other.shape and torch.equal(one.isnan(), other.isnan()), name
        ratio = (one - other).abs() / (atol + rtol * other.abs())
        ratios += ratio[~other.isnan()].flatten().tolist()
    return max(ratios)


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference of two tensors, relative to the largest value of the tensor.

    Sums over a batch cancel in elements near 0, so rounding errors are relative to the tensor.
    """
    assert found.keys() == expected.keys()
    errors = [
        (found[name] - value).abs().max() / value.abs().max()
        for name, value in expected.items()
        if value.any() or found[name].any()
    ]
    return float(torch.stack(errors).max())


def freeze_statistics(model: nn.Module) -> nn.Module:
    """Normalise by running statistics in training too: images of a batch are then independent."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train = lambda mode=True, module=module: module
            module.training = False
    return model


def build(config: dict[str, Any]) -> nn.Module:
    """Return the model of a config, initialised alike everywhere, with frozen statistics."""
    torch.manual_seed(7)
    model = ROOT_MODELS.build(config)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
    return freeze_statistics(model)


def share(raw: dict[str, Any]) -> dict[str, Any]:
    """Return this process's part of a batch."""
    part = slice(dist.get_rank(), None, dist.get_world_size())
    return {name: value[part] for name, value in raw.items()}


def scale_gradients(model: nn.Module, part: str, scale: float) -> None:
    """Multiply the second process's gradients of a part, before they are averaged."""
    if dist.get_rank() == 1:
        for name, parameter in model.named_parameters():
            if part in name and parameter.requires_grad:
                parameter.register_hook(lambda gradient: scale * gradient)


def add_noise(model: nn.Module, noise: float, seed: int = 1) -> None:
    """Add relative noise to all weights, now and when initialised, and to all gradients.

    It is larger than rounding errors, and the same in every run. A comparison of two runs proves
    something only if such noise stays as small as it is: no value may lie so near a kink (of ReLU,
    of the absolute value) that it changes sides.
    """
    generator = torch.Generator()
    initialise = model.init_weights
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def noisy(values: Tensor) -> Tensor:
        return values * (1 + noise * torch.randn(values.shape, generator=generator))

    def add_to_weights() -> None:
        generator.manual_seed(seed)  # the same noise, however often the weights are initialised
        for parameter in trained:
            parameter.data = noisy(parameter.data)

    def initialise_with_noise() -> None:
        initialise()
        add_to_weights()

    add_to_weights()
    model.init_weights = initialise_with_noise
    for parameter in trained:
        parameter.register_hook(noisy)


def gradients(
    folder: Path, config: dict[str, Any], change: Callable[[nn.Module], None] | None = None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the losses and gradients of one batch of 8, divided among the processes.

    Args:
        folder: Not used.
        config: Config of the model.
        change: Changes the model before the batch, for controls.
    """
    model = build(config)
    if change is not None:
        change(model)
    called = model
    if dist.get_world_size() > 1:
        called = MMDistributedDataParallel(model, broadcast_buffers=False)
    data = model.data_preprocessor(share(tiny.batch_of(8)), True)
    total, logged = model.parse_losses(called(**data, mode='loss'))
    total.backward()
    return (
        {name: value.item() for name, value in logged.items()},
        {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad},
    )


def train(folder: Path, config: dict[str, Any], freeze_before: int | None = None) -> dict[str, Any]:
    """Train five iterations in a Runner.

    Returns:
        The class of the wrapper, the teacher weights for one embedding before each iteration, and
        the last state.
    """

    class Watch(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            weighting = unwrap(runner.model).methods.amtml.mixture.weighting
            if batch_idx == freeze_before:
                weighting.freeze()
            weights.append(weighting(embedding).detach())

    weights: list[Tensor] = []
    embedding = torch.linspace(0, 1, 32).reshape(2, 16)
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    run = tiny.runner(
        config,
        folder / 'run',
        iters=5,
        batch=4,
        custom_hooks=[Watch()],
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=wrapper),
    )
    run.train()
    state = tiny.weights_of(unwrap(run.model))
    return dict(wrapper=type(run.model).__name__, weights=weights, state=state)


class GlooSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm by the statistics of all processes; torch's SyncBatchNorm needs GPUs for this."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or dist.get_world_size() == 1:
            return super().forward(x)
        mean = _over_processes(x.mean(dim=(0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = _over_processes(centred.square().mean(dim=(0, 2, 3)))
        if self.track_running_stats:
            count = dist.get_world_size() * x.numel() // x.shape[1]
            unbiased = variance * count / (count - 1)
            self.num_batches_tracked += 1
            for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.lerp_(batch.detach(), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def _over_processes(mean: Tensor) -> Tensor:
    """Average the means of equally large parts."""
    return all_reduce(mean) / dist.get_world_size()


def train_peers(
    folder: Path,
    config: dict[str, Any],
    iters: int,
    frozen: bool,
    optim: Mapping[str, Any] = MappingProxyType({}),
    change: Callable[[nn.Module], None] | None = None,
    seed: int = 3,
) -> dict[str, Any]:
    """Train on global batches of 8 in a Runner, and validate at the end.

    Args:
        folder: For the files of the run.
        config: Config of the model.
        iters: Number of iterations.
        frozen: Whether BatchNorm uses its running statistics, or those of the global batch.
        optim: Changes to the optimizers.
        change: Changes the model before the run, for controls.
        seed: Seed of the initial weights of methods and auxiliary modules.

    Returns:
        The class of the wrapper, the metrics, the last state, and the keys of the checkpoint.
    """

    class Watch(Hook):
        def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
            found.update(metrics)

    found: dict[str, float] = {}
    torch.manual_seed(seed)
    model = ROOT_MODELS.build(config)
    if frozen:
        freeze_statistics(model)
    else:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = GlooSyncBatchNorm
    if change is not None:
        change(model)
    many = dist.get_world_size() > 1
    run = tiny.runner(
        model,
        folder / 'run',
        iters=iters,
        batch=8 // dist.get_world_size(),
        optim_wrapper=tiny.peer_optimizers(**optim),
        custom_hooks=[Watch()],
        train_cfg=dict(by_epoch=False, max_iters=iters, val_interval=iters),
        **{**tiny.validation(4), 'val_cfg': dict(type='mmkd_plugin.PeerValLoop')},
        launcher='pytorch' if many else 'none',
        cfg=dict(model_wrapper_cfg=dict(type='mmkd_plugin.PeerDataParallel', device_ids=None)),
    )
    run.train()
    return dict(
        wrapper=type(run.model).__name__,
        metrics=found,
        state=tiny.weights_of(unwrap(run.model)),
        saved=sorted(state_of(folder / 'run' / f'iter_{iters}.pth')),
    )


def refuse_peers(folder: Path, config: dict[str, Any], wrapper: str) -> tuple[str, str | None, str]:
    """Return the key, the found value and the remedy of the error under a wrapper of MMEngine's."""
    run = tiny.runner(
        config,
        folder / 'run',
        optim_wrapper=tiny.peer_optimizers(),
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=dict(type=wrapper, device_ids=None)),
    )
    try:
        run.train()
    except ConfigError as error:
        return error.key, error.found, error.fix
    return '', None, ''
