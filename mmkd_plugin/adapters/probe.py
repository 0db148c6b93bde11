"""Probes: what a dry run on one blank image shows of a network, before training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import NetworkOutput

#: Sides that some network accepts: small ones first, heads of a fixed size (VGG, Inception) last.
_SIDES = (64, 224, 32, 299)


@dataclass(frozen=True)
class Probe:
    """Outputs of a dry run, for shapes.

    Args:
        key: The config key of the network, for messages.
        output: Its outputs for one blank image.
    """

    key: str
    output: NetworkOutput

    def feature(self, tap: str) -> Tensor:
        """Return what ``tap`` recorded for the blank image."""
        return self.output.feature(tap)


@dataclass(frozen=True)
class TeacherProbe(Probe):
    """A probe of a teacher, with what a method may ask of it once.

    Args:
        model: The network.
        sha256: SHA-256 of its checkpoint, hexadecimal; None for a peer, which still learns.
        checkpoint: Path or URL of that checkpoint.
    """

    model: nn.Module
    sha256: str | None = None
    checkpoint: str | None = None

    @property
    def frozen(self) -> bool:
        """Whether the teacher stays as it is: False for a peer."""
        return self.sha256 is not None

    def norm(self, path: str, key: str) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (C,) each, of the normalisation layer at ``path``.

        Raises:
            ConfigError: If there is no such layer, or the network still learns; about ``key``.
        """
        if not self.frozen:
            raise ConfigError(
                key,
                f'needs a frozen teacher, and {self.key} still learns',
                'Use another method in mutual learning.',
                found=path,
            )
        [tap] = TappedModel(self.model, self.key).parse([path], key).values()
        layer = self.model.get_submodule(tap.path)
        scale, shift = getattr(layer, 'weight', None), getattr(layer, 'bias', None)
        if not (isinstance(scale, Tensor) and isinstance(shift, Tensor) and scale.ndim == 1):
            raise ConfigError(
                key,
                f'must be the path of a BatchNorm layer with scale and shift, but it is a '
                f'{type(layer).__name__}',
                found=path,
            )
        return scale, shift


def dry_run(network: TappedModel, shape: tuple[int, int, int]) -> NetworkOutput:
    """Run a network once on zeros of ``shape`` (C, H, W), in eval mode and without gradients.

    Modes, BatchNorm statistics and the random state stay as they were.
    """
    model = network.model
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    model.eval()
    try:
        inputs = torch.zeros(1, *shape, device=device)
        with (
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
            network.recording(inputs) as recording,
        ):
            network.adapter.run(model, inputs, scores=True)
    finally:
        for module, training in modes.items():
            module.training = training
    return recording.output


def probe_network(network: TappedModel, shape: tuple[int, int, int]) -> NetworkOutput:
    """Run a network on an input shape that another network accepts.

    Raises:
        ConfigError: If this network does not accept it.
    """
    try:
        return dry_run(network, shape)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            network.key,
            f'the network does not run on the probe input (channels, height, width) = {shape}: '
            f'{first}',
            'Set probe_shape to an input that all networks accept.',
        ) from error


def find_shape(network: TappedModel, stated: Sequence[int] | None) -> tuple[int, int, int]:
    """Return an input shape (C, H, W) that a network accepts: ``stated``, or the first usual one.

    Raises:
        ConfigError: If the network accepts none of them.
    """
    if stated is not None:
        sides = stated if isinstance(stated, (list, tuple)) else ()
        if len(sides) != 3 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise ConfigError('probe_shape', 'must be (channels, height, width)', found=stated)
        candidates = [(sides[0], sides[1], sides[2])]
    else:
        convolutions = (m for m in network.model.modules() if isinstance(m, nn.Conv2d))
        first = next((module.in_channels for module in convolutions), 3)
        # A stem that folds the image (YOLOX's Focus) has more channels than the image.
        usual = (*_own_side(network.model), *_SIDES)
        candidates = [(c, side, side) for c in dict.fromkeys((first, 3)) for side in usual]
    bare = TappedModel(network.model, network.key)
    failure: Any = None
    for shape in candidates:
        try:
            dry_run(bare, shape)
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            failure = error
        else:
            return shape
    raise ConfigError(
        'probe_shape',
        f'{network.key} runs on none of the inputs that were tried: {failure}',
        'Set it to the (channels, height, width) of an input that the network accepts.',
        found=candidates,
    )


def _own_side(model: nn.Module) -> tuple[int, ...]:
    size = getattr(getattr(model, 'backbone', None), 'img_size', None)
    if isinstance(size, (tuple, list)):
        size = size[0]
    return (size,) if isinstance(size, int) else ()
