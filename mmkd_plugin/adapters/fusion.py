"""A faster form of a frozen network, and a trial that shows that its outputs are the same.

BatchNorm is fused into convolutions, maps are in channels_last, and layers are left out that reach
nothing that is read.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.dry_run import IMAGES, REFUSALS, Shape, first_line, unchanged
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.adapters.unused import is_plain_conv, unused_layers
from mmkd_plugin.outputs import NetworkOutput

#: Largest difference from the plain forward, relative to the largest value of a tensor.
TOLERANCE = 1e-5
_SEED = 0


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


@dataclass
class FastForm:
    """How a network can run in less time, with the same outputs.

    Args:
        shape: (channels, height, width) of the trial.
        device: Its device. On another one, operators may want another memory format.
        pairs: Convolutions with their BatchNorm.
        channels_last: Whether images and maps are in channels_last.
        unused: Layers that reach nothing that is read.
        read: Readings of the trial.
        refusal: Why the network runs slower than it could; empty if it does not.
    """

    shape: Shape
    device: torch.device
    pairs: list[FusedPair] = field(default_factory=list)
    channels_last: bool = False
    unused: list[nn.Module] = field(default_factory=list)
    read: frozenset[str] = frozenset()
    refusal: str = ''


Activate = Callable[[FastForm, Tensor], AbstractContextManager[Tensor]]


def find_fast_form(network: TappedModel, shape: Shape, activate: Activate) -> FastForm:
    """Find what can be faster, and compare it with the plain forward on images of noise.

    Args:
        network: The network, frozen and in eval mode.
        shape: (channels, height, width) that it accepts.
        activate: A context in which the network runs in a form; it yields the images in that form.
    """
    model = network.model
    images = _noise(model, shape)
    plain = FastForm(shape, images.device)
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return plain
    # Precisions below float32 would hide what is compared.
    with (
        torch.autocast(images.device.type, enabled=False),
        torch.backends.cudnn.flags(allow_tf32=False),
    ):
        with _noted_pairs(model) as pairs:
            expected = _outputs(network, images)
        unused = unused_layers(
            model, lambda: [*_outputs(network, images, expected.rois, True).tensors().values()]
        )
        read = network.readings
        for channels_last in _formats(model, unused):
            for pair in pairs:  # weights in channels_last make maps in channels_last
                pair.weight.data = _in_format(pair.weight, channels_last)
            form = FastForm(shape, images.device, pairs, channels_last, unused, read, plain.refusal)
            try:
                with activate(form, images) as inputs:
                    difference = _difference(expected, _outputs(network, inputs, expected.rois))
            except REFUSALS as error:
                plain.refusal = f'it does not run in channels_last: {first_line(error)}'
                continue
            if difference <= TOLERANCE:
                return form
            plain.refusal = f'its outputs differ by {difference:.1e} of the largest value'
    return plain


def _formats(model: nn.Module, unused: Collection[nn.Module]) -> tuple[bool, ...]:
    """Return whether to try channels_last; GroupNorm and InstanceNorm are slower in it."""
    slower = (nn.GroupNorm, nn.InstanceNorm2d)
    used = (module for module in model.modules() if module not in unused)
    return (False,) if any(isinstance(module, slower) for module in used) else (True, False)


def _outputs(
    network: TappedModel, images: Tensor, rois: Sequence[Tensor] = (), graph: bool = False
) -> NetworkOutput:
    scores, paths = network.needs_scores, network.recorded_paths
    samples = network.adapter.blank_samples(images)
    with (
        unchanged(network.model),
        torch.set_grad_enabled(graph),
        network.recording(images) as recording,
        network.keyed(),
    ):
        network.adapter.run(network.model, images, scores, rois, paths, samples)
    return recording.output


@contextmanager
def _noted_pairs(model: nn.Module) -> Iterator[list[FusedPair]]:
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
        and not (module._forward_hooks or module._forward_pre_hooks)
    )


def _fuse(paths: frozenset[str], conv: nn.Module, norm: nn.Module) -> FusedPair:
    """Fuse the weights of both: BatchNorm(W x + b) = (s W) x + (s (b - mean) + shift)."""
    tensors = (*conv._parameters.values(), *norm._parameters.values(), *norm._buffers.values())
    sources = tuple(tensor for tensor in tensors if tensor is not None)
    none = nn.Parameter(torch.empty(0), requires_grad=False)
    pair = FusedPair(paths, conv, norm, none, none, sources, 0)
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
    pair.weight = nn.Parameter(_in_format(fused, last), requires_grad=False)
    pair.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    pair.version = sum(tensor._version for tensor in pair.sources)


def _in_format(tensor: Tensor, channels_last: bool) -> Tensor:
    form = torch.channels_last if channels_last else torch.contiguous_format
    return tensor.contiguous(memory_format=form)


def _noise(model: nn.Module, shape: Shape) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(IMAGES, *shape, generator=generator).to(next(model.parameters()))


def _difference(plain: NetworkOutput, fast: NetworkOutput) -> float:
    """Return the largest difference of two outputs, relative to the largest value of a tensor."""
    tensors = zip(plain.tensors().values(), fast.tensors().values(), strict=True)
    return max((_relative(one, other) for one, other in tensors), default=0.0)


def _relative(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape or not one.numel():  # nothing was compared
        return float('inf')
    largest, difference = float(one.abs().amax()), float((one - other).abs().amax())
    return difference / largest if largest > 0 else difference
