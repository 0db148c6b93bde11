"""Probes: what a dry run on blank images shows of a network, before training."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from mmkd_plugin.adapters.dry_run import (
    IMAGES,
    REFUSALS,
    Shape,
    blank_images,
    first_line,
    run_blank,
    unchanged,
)
from mmkd_plugin.adapters.reduction import Reduction
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import NetworkOutput

if TYPE_CHECKING:
    from mmkd_plugin.adapters.head_continuation import HeadContinuation

#: Sizes that some network accepts: small ones first, heads of a fixed size (VGG, Inception, those
#: that tell persons apart) later.
_SIZES = (*((side, side) for side in (64, 224, 32, 299, 256, 384, 448, 512, 28)), (256, 128))
#: Sides of parts inside a network (windows, patches) are stated too; images are larger.
_MOST_OWN_SIZES = 4


@dataclass(frozen=True)
class Probe:
    """Outputs of a dry run, for shapes.

    Args:
        key: The config key of the network, for messages.
        output: Its outputs for blank images.
        size: (height, width) of these images; None if unknown.
    """

    key: str
    output: NetworkOutput
    size: tuple[int, int] | None = field(default=None, kw_only=True)

    #: Number of blank images, and so of the rows of a tensor with one row an image.
    images: ClassVar[int] = IMAGES

    def feature(self, tap: str) -> Tensor:
        """Return what ``tap`` recorded for the blank images."""
        return self.output.feature(tap)

    def stride(self, tap: str) -> float | None:
        """Return the height of the images over that of the map at ``tap``.

        None if the images are unknown, or the tap returns no map of several rows.
        """
        feature = self.feature(tap)
        if self.size is None or feature.ndim != 4 or feature.shape[2] < 2:
            return None
        return float(2 ** round(math.log2(self.size[0] / feature.shape[2])))


@dataclass(frozen=True)
class TeacherProbe(Probe):
    """A probe of a teacher, with what a method may ask of it once.

    Args:
        model: The network.
        sha256: SHA-256 of its checkpoint, hexadecimal; None for a peer, which still learns.
        checkpoint: Path or URL of that checkpoint.
        continues: Builds a :class:`~mmkd_plugin.adapters.head_continuation.HeadContinuation`; None
            where there is no frozen network that runs in each step.

    Attributes:
        reductions: Functions of its taps that methods read in place of them; see :meth:`reduce`.
    """

    model: nn.Module
    sha256: str | None = None
    checkpoint: str | None = None
    reductions: list[Reduction] = field(default_factory=list, init=False, repr=False)
    continues: 'Callable[..., HeadContinuation] | None' = field(
        default=None, kw_only=True, repr=False
    )

    @property
    def frozen(self) -> bool:
        """Whether the teacher stays as it is: False for a peer."""
        return self.sha256 is not None

    def reduce(self, reduction: Reduction) -> str:
        """Note that a method reads no more of a tap than this; return the name of the feature.

        The outputs of a stored teacher have this feature. Those of others have the tap.
        """
        self.reductions.append(reduction)
        return reduction.feature

    def head_continuation(self, remaining: int, **options: Any) -> 'HeadContinuation':
        """Return the last layers of its dense head, to be run on the features of a student.

        Args:
            remaining: Number of convolutions of its towers that still run.
            options: The other arguments of
                :class:`~mmkd_plugin.adapters.head_continuation.HeadContinuation`.

        Raises:
            ConfigError: If the network still learns, or its head cannot be continued.
        """
        if self.continues is None:
            raise ConfigError(
                'type',
                f'needs a frozen teacher, whose head runs in each step, and {self.key} still '
                'learns',
                'Use SoftTarget or LD between peers.',
                found=type(self.model).__name__,
            )
        return self.continues(remaining, **options)

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


def dry_run(
    network: TappedModel, shape: Shape, training: bool = False, scores: bool = True
) -> NetworkOutput:
    """Run a network once on blank images of ``shape`` (C, H, W), without gradients.

    Modes, buffers and the random state stay as they were.

    Args:
        network: The network.
        shape: (channels, height, width).
        training: Whether it runs in training mode. Some networks return other tensors in it.
        scores: Whether what computes class scores runs, also if no tap needs it.
    """
    inputs = blank_images(network.model, shape)
    with (
        unchanged(network.model, training),
        network.recording(inputs) as recording,
        network.keyed(),
    ):
        run_blank(network.model, network.adapter, shape, network.recorded_paths, scores)
    return recording.output


def probe_network(network: TappedModel, shape: Shape, training: bool = False) -> NetworkOutput:
    """Run a network on an input shape that another network accepts.

    Args:
        network: The network.
        shape: (channels, height, width).
        training: Whether it learns. A network that runs in eval mode alone, without labels, is
            probed there; the first batch is checked against it.

    Raises:
        ConfigError: If this network does not accept the shape.
    """
    output = _attempt(network, shape, training=True) if training else None
    if output is None or isinstance(output, Exception):
        output = _attempt(network, shape, training=False)
    if isinstance(output, Exception):
        raise ConfigError(
            network.key,
            f'the network does not run on the probe input (channels, height, width) = {shape}: '
            f'{first_line(output)}',
            'Set probe_shape to an input that all networks accept.',
        ) from output
    network.probed = {tap: tuple(value.shape) for tap, value in output.features.items()}
    return output


def _attempt(network: TappedModel, shape: Shape, training: bool) -> NetworkOutput | Exception:
    try:
        return dry_run(network, shape, training)
    except ConfigError:  # about a tap
        raise
    except REFUSALS as error:
        return error


def find_shape(network: TappedModel, stated: Sequence[int] | None) -> Shape:
    """Return an input shape (C, H, W) that a network accepts: ``stated``, or the first usual one.

    Raises:
        ConfigError: If the network accepts none of them.
    """
    return find_shapes([network], stated)[network]


def find_shape_near(network: TappedModel, size: tuple[int, int]) -> Shape:
    """Return an input shape of a network: of this size if it accepts it, or else of its own.

    Args:
        network: The network.
        size: (height, width).

    Raises:
        ConfigError: If the network accepts no usual size.
    """
    return _accepted(network, size, None, {}) or find_shapes([network], None)[network]


def find_shapes(
    networks: Sequence[TappedModel], stated: Sequence[int] | None
) -> dict[TappedModel, Shape]:
    """Return an input shape (C, H, W) for each network; height and width are those of all.

    The sizes that the networks themselves state come first, then usual ones.

    Args:
        networks: All networks of a run.
        stated: The config key ``probe_shape``: its size is the only one that is tried.

    Raises:
        ConfigError: If there is no size that all networks accept.
    """
    if stated is not None:
        sides = stated if isinstance(stated, (list, tuple)) else ()
        if len(sides) != 3 or not all(type(side) is int and side > 0 for side in sides):
            raise ConfigError('probe_shape', 'must be (channels, height, width)', found=stated)
        sizes, channels = [(sides[1], sides[2])], sides[0]
    else:
        own = [size for network in networks for size in _own_sizes(network.model)]
        sizes, channels = list(dict.fromkeys([*own, *_SIZES])), None
    refused: dict[str, str] = {}
    for size in sizes:
        shapes: dict[TappedModel, Shape] = {}
        for network in networks:
            shape = _accepted(network, size, channels, refused)
            if shape is None:
                break
            shapes[network] = shape
        else:
            return shapes
    reasons = '; '.join(f'{key}: {reason}' for key, reason in refused.items())
    raise ConfigError(
        'probe_shape',
        f'no input size was accepted by all networks. The last refusals are {reasons}',
        'Set it to the (channels, height, width) of an input that all networks accept.',
        found=sizes if stated is None else stated,
    )


def _accepted(
    network: TappedModel, size: tuple[int, int], channels: int | None, refused: dict[str, str]
) -> Shape | None:
    """Return the shape that a network accepts of a size; note the reason if there is none."""
    bare = TappedModel(network.model, network.key)
    bare.adapter = network.adapter
    first = next(_channels(network.model), 3)
    # A stem that folds the image (YOLOX's Focus) has more channels than the image.
    candidates = (first, 3) if channels is None else (channels, first, 3)
    for number in dict.fromkeys(candidates):
        try:
            dry_run(bare, (number, *size))
        except REFUSALS as error:
            reason = f'{first_line(error)} (input {(number, *size)})'
            if number == candidates[0]:
                refused[network.key] = reason
        else:
            return number, *size
    return None


def _channels(model: nn.Module) -> Iterator[int]:
    """Yield the channels of inputs: of the convolutions, then of modules that state their input."""
    modules = list(model.modules())
    yield from (module.in_channels for module in modules if isinstance(module, nn.Conv2d))
    for module in modules:  # a network of linear layers alone
        channels = getattr(module, 'in_channels', None)
        if isinstance(channels, int) and hasattr(module, 'input_size'):
            yield channels


def _own_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Return the input sizes (height, width) that the modules of a network state."""
    found = []
    for module in model.modules():
        for name in ('img_size', 'input_size', 'init_input_size'):
            size = getattr(module, name, None)
            if isinstance(size, int) and not isinstance(size, bool):
                size = (size, size)
            if (
                isinstance(size, (tuple, list))
                and len(size) == 2
                and all(isinstance(side, int) and side >= 28 for side in size)
            ):
                found.append((size[0], size[1]))
    return list(dict.fromkeys(found))[:_MOST_OWN_SIZES]
