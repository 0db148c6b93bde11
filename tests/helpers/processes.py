"""What two processes run: module-level functions, which ``spawn`` can find."""

import os
import socket
from pathlib import Path
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


def in_two(folder: Path, questions: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Call ``function(folder / name, *arguments)`` for all ``name: (function, *arguments)`` in two gloo processes; the answers by rank."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_process, (port, folder, questions), nprocs=2)
    return [torch.load(folder / f'rank{rank}.pt', weights_only=False) for rank in range(2)]


def _process(rank: int, port: int, folder: Path, questions: dict[str, tuple[Any, ...]]) -> None:
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
        answers = {
            name: function(folder / name, *arguments)
            for name, (function, *arguments) in questions.items()
        }
        torch.save(answers, folder / f'rank{rank}.pt')
    finally:
        torch.distributed.destroy_process_group()


def without_batch_statistics(model: nn.Module) -> nn.Module:
    """Use the running statistics in training too: then an image's output does not depend on its batch."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train = lambda mode=True, module=module: module
            module.training = False
    return model


def build(config: dict[str, Any]) -> nn.Module:
    """The distiller of a config, initialised alike everywhere."""
    torch.manual_seed(7)
    model = ROOT_MODELS.build(config)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
    return without_batch_statistics(model)


def share(raw: dict[str, Any]) -> dict[str, Any]:
    """This process's part of a batch."""
    part = slice(dist.get_rank(), None, dist.get_world_size())
    return {name: value[part] for name, value in raw.items()}


def gradients(folder: Path, config: dict[str, Any]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of one batch of 8, divided among the processes."""
    model = build(config)
    wrapped = (
        MMDistributedDataParallel(model, broadcast_buffers=False)
        if dist.get_world_size() > 1
        else model
    )
    data = model.data_preprocessor(share(tiny.batch_of(8)), True)
    total, logged = model.parse_losses(wrapped(**data, mode='loss'))
    total.backward()
    return (
        {name: value.item() for name, value in logged.items()},
        {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad},
    )


def train(folder: Path, config: dict[str, Any], freeze_before: int | None = None) -> dict[str, Any]:
    """Four iterations in a Runner; the weighting's answer before each, and the last weights."""

    class Watch(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            distiller = getattr(runner.model, 'module', runner.model)
            if batch_idx == freeze_before:
                distiller.methods.amtml.weighting.freeze()
            answers.append(distiller.methods.amtml.weighting(embedding).detach())

    answers: list[Tensor] = []
    embedding = torch.linspace(0, 1, 32).reshape(2, 16)
    run = tiny.runner(
        config,
        folder / 'run',
        iters=5,
        batch=4,
        custom_hooks=[Watch()],
        launcher='pytorch',
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
            )
        ),
    )
    run.train()
    distiller = getattr(run.model, 'module', run.model)
    return dict(wrapper=type(run.model).__name__, answers=answers, state=tiny.weights_of(distiller))


class GlooSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm by the statistics of all processes. Torch's SyncBatchNorm does this on GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or dist.get_world_size() == 1:
            return super().forward(x)
        moments = torch.stack([x.mean(dim=(0, 2, 3)), x.square().mean(dim=(0, 2, 3))])
        mean, square = all_reduce(moments) / dist.get_world_size()
        variance = square - mean.square()
        if self.track_running_stats:
            count = dist.get_world_size() * x.numel() // x.shape[1]
            self.num_batches_tracked += 1
            for running, seen in (
                (self.running_mean, mean),
                (self.running_var, variance * count / (count - 1)),
            ):
                running.lerp_(seen.detach(), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


def train_peers(
    folder: Path, config: dict[str, Any], frozen: bool, optim: dict[str, Any]
) -> dict[str, Any]:
    """Four iterations of a global batch of 8 in a Runner with validation: metrics, and the last weights."""

    class Watch(Hook):
        def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
            found.update(metrics)

    found: dict[str, float] = {}
    torch.manual_seed(7)
    model = ROOT_MODELS.build(config)
    if frozen:
        without_batch_statistics(model)
    else:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = GlooSyncBatchNorm
    many = dist.get_world_size() > 1
    loader = dict(batch_size=4, num_workers=0, dataset=dict(type='TinyImages', seed=1))
    run = tiny.runner(
        model,
        folder / 'run',
        iters=4,
        batch=8 // dist.get_world_size(),
        optim_wrapper=tiny.peer_optimizers(**optim),
        custom_hooks=[Watch()],
        train_cfg=dict(by_epoch=False, max_iters=4, val_interval=4),
        val_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type='Accuracy', topk=(1,)),
        val_cfg=dict(type='mmkd_plugin.PeerValLoop'),
        launcher='pytorch' if many else 'none',
        cfg=dict(model_wrapper_cfg=dict(type='mmkd_plugin.PeerDataParallel', device_ids=None)),
    )
    run.train()
    return dict(
        wrapper=type(run.model).__name__,
        metrics=found,
        state=tiny.weights_of(getattr(run.model, 'module', run.model)),
        saved=sorted(torch.load(folder / 'run' / 'iter_4.pth', weights_only=True)['state_dict']),
    )


def refuse_peers(folder: Path, config: dict[str, Any], wrapper: str) -> str:
    """What a wrapper of MMEngine's is told."""
    run = tiny.runner(
        config,
        folder / 'run',
        optim_wrapper=tiny.peer_optimizers(),
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=dict(type=wrapper, device_ids=None)),
    )
    try:
        run.train()
    except ValueError as error:
        return str(error)
    return ''
