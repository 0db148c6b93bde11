"""Tapped tensors as maps (N, C, H, W), whatever the layout in which a network keeps them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.layout import Layout, measure_layouts


class _Network(Protocol):
    """Needed parts of a :class:`~mmkd_plugin.adapters.TappedModel`."""

    model: nn.Module
    key: str
    adapter: Adapter
    layouts: dict[str, Layout | None]

    def shapes_at(
        self, taps: Sequence[str], shape: tuple[int, int, int]
    ) -> dict[str, tuple[int, ...]] | None: ...


def as_maps(network: _Network, tensors: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Bring recorded tensors into the form (N, C, H, W), where they have positions.

    The layout of a tap is measured once. A tensor of unknown layout stays as it is.

    Args:
        network: The network that they were recorded in.
        tensors: Recorded tensors by tap.
        inputs: The preprocessed batch, (N, C, H, W).

    Raises:
        ConfigError: If tokens do not form a grid of the input's proportions.
    """
    unknown = {tap: value for tap, value in tensors.items() if tap not in network.layouts}
    if unknown:
        _measure(network, unknown, inputs)
    size = inputs.shape[2:]
    maps = {}
    for tap, value in tensors.items():
        layout = network.layouts[tap]
        maps[tap] = value if layout is None else layout.to_map(value, size, tap, network.key)
    return maps


def from_map(network: _Network, tap: str, feature: Tensor, output: Tensor) -> Tensor:
    """Bring a map back into the form of the ``output`` of a tap that it was made of."""
    layout = network.layouts.get(tap)
    return feature if layout is None else layout.from_map(feature, output)


def _measure(network: _Network, tensors: Mapping[str, Tensor], inputs: Tensor) -> None:
    size = (inputs.shape[2], inputs.shape[3])
    shapes = {tap: tuple(tensor.shape) for tap, tensor in tensors.items()}

    def run(other: tuple[int, int]) -> dict[str, tuple[int, ...]] | None:
        return network.shapes_at(list(shapes), (inputs.shape[1], *other))

    for tap, layout in measure_layouts(shapes, size, run).items():
        if layout is None:
            layout = network.adapter.known_layout(network.model, tap, shapes[tap], size)
        network.layouts[tap] = layout
