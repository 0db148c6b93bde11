"""The split of a map's channels into a part that inherits and a part that explores."""

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError, one_of, positive_integer
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class ChannelSplit(nn.Module):
    r"""Split (N, C, ...) along its channels into :math:`f_{inh}` and :math:`f_{exp}`.

    The split stays the same for the whole run. The two sets of indices are buffers: they are saved,
    restored and equal on every rank, and after loading the checkpoint's indices count.

    Args:
        channels: C.
        ratio: The share of the channels that inherits: ``round(ratio * channels)`` of them.
        mode: ``'random'`` as in the paper. ``'halves'`` lets the first channels inherit, which is
            the default of the authors' code.
        seed: Seeds the random draw, which uses its own generator.

    Shape:
        (N, C, ...) to (N, C_inh, ...) and (N, C_exp, ...); channels keep their order.

    Raises:
        ConfigError: If the ratio is not between 0 and 1, leaves a part empty, or is one half of an
            odd number of channels; if a map has other channels.

    Example:
        >>> split = ChannelSplit(channels=4, mode='halves')
        >>> inherit, explore = split(torch.tensor([[1, 2, 3, 4]]))
        >>> inherit.tolist(), explore.tolist()
        ([[1, 2]], [[3, 4]])

    Reference:
        Huang et al., Revisiting Knowledge Distillation, CVPR 2021.
    """

    inherit_index: Tensor
    explore_index: Tensor

    def __init__(
        self, channels: int, ratio: float = 0.5, mode: str = 'random', seed: int = 0
    ) -> None:
        super().__init__()
        self.channels = positive_integer('channels', channels)
        inherit = _inherited(channels, ratio)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ConfigError('seed', 'must be an integer', found=seed)
        if one_of('mode', mode, ('random', 'halves')) == 'random':
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(channels, generator=generator, device='cpu')
        else:
            order = torch.arange(channels)
        self.register_buffer('inherit_index', order[:inherit].sort().values)
        self.register_buffer('explore_index', order[inherit:].sort().values)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the part that inherits and the part that explores."""
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise ConfigError(
                'channels', f'needs features (N, {self.channels}, ...)', found=tuple(x.shape)
            )
        return x.index_select(1, self.inherit_index), x.index_select(1, self.explore_index)


def _inherited(channels: int, ratio: float) -> int:
    """Return the number of channels that inherit."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
        raise ConfigError('ratio', 'must be a number between 0 and 1', found=ratio)
    if ratio == 0.5 and channels % 2:
        raise ConfigError(
            'ratio', f'cannot halve {channels} channels', 'Set another ratio.', found=ratio
        )
    inherit = round(ratio * channels)
    if not 0 < inherit < channels:
        raise ConfigError(
            'ratio',
            'must leave at least one channel in each part',
            f'It gives {inherit} and {channels - inherit} of {channels} channels.',
            found=ratio,
        )
    return inherit
