"""Convolutions with the BatchNorm that follows them, as one convolution."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.unused import is_bare, is_plain_conv


@dataclass(eq=False)
class FusedPair:
    """A convolution, and the BatchNorm that receives its output and nothing else.

    Args:
        paths: Their paths in the network.
        conv: The convolution.
        norm: The BatchNorm.
        weight: Weights of both.
        bias: Bias of both.
        sources: The tensors of both, that weight and bias are made of.
        version: How often something had been written into them.
    """

    paths: frozenset[str]
    conv: nn.Module
    norm: nn.Module
    weight: nn.Parameter
    bias: nn.Parameter
    sources: tuple[Tensor, ...]
    version: int


@contextmanager
def noted_pairs(model: nn.Module) -> Iterator[list[FusedPair]]:
    """Fill a list with the pairs that can be fused, from what runs in the body."""
    found: list[FusedPair] = []
    paths = {module: path for path, module in model.named_modules()}
    convs = {module for module in paths if is_plain_conv(module)}
    norms = {module for module in paths if _is_fixed_norm(module)}
    makers: dict[int, tuple[nn.Module, Tensor]] = {}
    users: dict[nn.Module, set[nn.Module | None]] = {conv: set() for conv in convs}
    sources: dict[nn.Module, set[nn.Module | None]] = {norm: set() for norm in norms}

    def made(conv: nn.Module, _: object, output: Tensor) -> None:
        makers[id(output)] = conv, output  # kept alive, so that no other tensor has its id

    def used(module: nn.Module, args: tuple[object, ...]) -> None:
        for value in args:
            maker = makers.get(id(value))
            if module in sources:
                sources[module].add(maker and maker[0])
            if maker is not None:
                users[maker[0]].add(module)

    handles = [conv.register_forward_hook(made) for conv in convs]
    handles += [module.register_forward_pre_hook(used) for module in paths]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for norm, conv_set in sources.items():
        conv = next(iter(conv_set), None)
        # A convolution of several levels, with one BatchNorm for all, is a pair as well.
        if conv is not None and conv_set == {conv} and users[conv] == {norm}:
            found.append(_fuse(frozenset((paths[conv], paths[norm])), conv, norm))


def _is_fixed_norm(module: nn.Module) -> bool:
    return (
        type(module) in (nn.BatchNorm2d, nn.SyncBatchNorm)
        and module.running_mean is not None
        and is_bare(module)
    )


def _fuse(paths: frozenset[str], conv: nn.Module, norm: nn.Module) -> FusedPair:
    """Fuse the weights of both: BatchNorm(W x + b) = (s W) x + (s (b - mean) + shift)."""
    none = nn.Parameter(torch.empty(0), requires_grad=False)
    pair = FusedPair(paths, conv, norm, none, none, (), 0)
    refresh(pair)
    return pair


def refresh(pair: FusedPair) -> None:
    """Compute the weights of a pair from those of its modules."""
    conv, norm = pair.conv, pair.norm
    mean, variance = (norm.get_buffer(f'running_{name}').double() for name in ('mean', 'var'))
    scale = (variance + norm.eps).rsqrt()  # type: ignore[operator]
    weight = conv.get_parameter('weight')
    bias = -mean if conv.bias is None else conv.get_parameter('bias').double() - mean
    if norm.weight is not None:
        scale = scale * norm.get_parameter('weight').double()
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.get_parameter('bias').double()
    fused = (weight.double() * scale[:, None, None, None]).to(weight.dtype)
    last = pair.weight.ndim == 4 and pair.weight.is_contiguous(memory_format=torch.channels_last)
    pair.weight = nn.Parameter(in_format(fused, last), requires_grad=False)
    pair.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    tensors = (*conv._parameters.values(), *norm._parameters.values(), *norm._buffers.values())
    pair.sources = tuple(tensor for tensor in tensors if tensor is not None)
    pair.version = sum(tensor._version for tensor in pair.sources)


def in_format(tensor: Tensor, channels_last: bool) -> Tensor:
    """Return a tensor (N, C, H, W) in one of two memory formats."""
    form = torch.channels_last if channels_last else torch.contiguous_format
    return tensor.contiguous(memory_format=form)
