"""Towers of dense heads: the convolutions for classes and for boxes before the predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmkd_plugin.adapters.dense_detector import DenseDetectorAdapter
from mmkd_plugin.adapters.dense_locations import stated_strides
from mmkd_plugin.adapters.tap_requests import TapRequests
from mmkd_plugin.errors import ConfigError

#: Attributes of MMDet's dense heads: the tower of the classes, and that of the boxes.
TOWERS = ('cls_convs', 'reg_convs')


@dataclass(frozen=True)
class HeadTowers:
    """Two towers of equally many convolutions, each of which runs once a level.

    Args:
        key: Config key of the network.
        head: The head.
        path: Path of the head.
        convs: Number of convolutions of a tower.
        levels: Number of levels.
    """

    key: str
    head: nn.Module
    path: str
    convs: int
    levels: int

    def taps(self, tower: str, conv: int, before_activation: bool) -> tuple[str, ...]:
        """Return the taps of the output of a convolution, level by level.

        Args:
            tower: One of :data:`TOWERS`.
            conv: Number of the convolution, from 1.
            before_activation: Whether the maps before its activation are tapped, where it has one
                at its end.
        """
        module = self.head.get_submodule(f'{tower}.{conv - 1}')
        path = f'{self.path}.{tower}.{conv - 1}'
        activation = before_activation and final_activation(module) is not None
        parts = ('.activate', ':input') if activation else ('', '')
        return tuple(f'{path}{parts[0]}#{level}{parts[1]}' for level in range(self.levels))


def find_towers(network: TapRequests) -> HeadTowers:
    """Return the towers of a dense detector.

    Raises:
        ConfigError: If it has no two towers that all levels share; its key is ``'type'``.
    """
    adapter, name = network.adapter, type(network.model).__name__
    if not isinstance(adapter, DenseDetectorAdapter) or not adapter.scores_known:
        raise _no_towers(network.key, 'is no one-stage detector whose class scores are known', name)
    head: Any = network.model.get_submodule(adapter.head_path)
    name = type(head).__name__
    towers: Sequence[Any] = [getattr(head, one, ()) for one in TOWERS]
    shared = all(isinstance(one, nn.ModuleList) and len(one) for one in towers) and not any(
        isinstance(conv, nn.ModuleList) for one in towers for conv in one
    )
    numbers = {len(one) for one in towers}
    levels = len(stated_strides(head))
    # SSD's prediction layers have this name too; its heads state that they stack no convolution.
    stacked = getattr(head, 'stacked_convs', None) in (None, *numbers)
    if not (shared and stacked and levels and len(numbers) == 1):
        names = ' and '.join(TOWERS)
        problem = f'has a head without {names} of equal length that all levels share'
        raise _no_towers(network.key, problem, name)
    return HeadTowers(network.key, head, adapter.head_path, numbers.pop(), levels)


def final_activation(conv: nn.Module) -> nn.Module | None:
    """Return the activation that ends an MMCV convolution; None if it has none there."""
    order = getattr(conv, 'order', ('act',))
    activation = getattr(conv, 'activate', None)
    ends = getattr(conv, 'with_activation', False) and order[-1] == 'act'
    return activation if ends and isinstance(activation, nn.Module) else None


def _no_towers(key: str, problem: str, name: str) -> ConfigError:
    return ConfigError(
        'type',
        f'continues the towers of dense heads, such as RetinaNet, FCOS, ATSS and GFL, and {key} '
        f'{problem}',
        'Use SoftTarget on class scores, or PKD on maps.',
        found=name,
    )
