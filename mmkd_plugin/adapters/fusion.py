"""A faster form of a frozen network, and a trial that shows that its outputs are the same.

BatchNorm is fused into convolutions, maps are in channels_last, and layers are left out that reach
nothing that is read.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.dry_run import IMAGES, REFUSALS, Shape, first_line, unchanged
from mmkd_plugin.adapters.fused_pairs import FusedPair, in_format, noted_pairs
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.adapters.unused import unused_layers
from mmkd_plugin.outputs import NetworkOutput

#: Largest difference from the plain forward, relative to the largest value of a tensor.
TOLERANCE = 1e-5
_SEED = 0
#: Values of unused layers in a trial: they pass any threshold that noise does not reach.
_FILLS = (100.0, -100.0)


@dataclass
class FastForm:
    """How a network can run in less time, with the same outputs.

    Args:
        shape: (channels, height, width) of the trial.
        device: Its device. On another one, operators may want another memory format.
        pairs: Convolutions with their BatchNorm.
        channels_last: Whether images and maps are in channels_last.
        contiguous: Modules inside whose maps are contiguous all the same.
        unused: Layers that reach nothing that is read.
        read: Readings of the trial.
        fill: Values of unused layers; see :func:`~mmkd_plugin.adapters.unused.filled`.
        refusal: Why the network runs slower than it could; empty if it does not.
    """

    shape: Shape
    device: torch.device
    pairs: list[FusedPair] = field(default_factory=list)
    channels_last: bool = False
    contiguous: list[nn.Module] = field(default_factory=list)
    unused: list[nn.Module] = field(default_factory=list)
    read: frozenset[str] = frozenset()
    fill: float = 0.0
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
        with noted_pairs(model) as pairs:
            expected = _outputs(network, images)
        unused = unused_layers(
            model, lambda: [*_outputs(network, images, expected.rois, True).tensors().values()]
        )
        read = network.readings
        if unused and not _change_nothing(network, images, expected, unused, activate):
            unused = []
        for channels_last in (True, False):
            for pair in pairs:  # weights in channels_last make maps in channels_last
                pair.weight.data = in_format(pair.weight, channels_last)
            slow = _slow_in_channels_last(model, unused) if channels_last else []
            form = FastForm(shape, images.device, pairs, channels_last, slow, unused, read)
            form.refusal = plain.refusal
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


def _change_nothing(
    network: TappedModel,
    images: Tensor,
    expected: NetworkOutput,
    unused: list[nn.Module],
    activate: Activate,
) -> bool:
    """Whether the outputs stay, whatever layers return: no gradient passes a comparison."""
    shape = (images.shape[1], images.shape[2], images.shape[3])
    for fill in _FILLS:
        form = FastForm(shape, images.device, unused=unused, read=network.readings, fill=fill)
        try:
            with activate(form, images) as inputs:
                difference = _difference(expected, _outputs(network, inputs, expected.rois))
        except REFUSALS:
            return False
        if not difference <= TOLERANCE:
            return False
    return True


def _slow_in_channels_last(model: nn.Module, unused: Collection[nn.Module]) -> list[nn.Module]:
    """Return the modules with a GroupNorm or an InstanceNorm, which are slower in channels_last."""
    slower = (nn.GroupNorm, nn.InstanceNorm2d)
    return [
        module
        for module in model.modules()
        if any(isinstance(one, slower) and one not in unused for one in module.children())
    ]


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
