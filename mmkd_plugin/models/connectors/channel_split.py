"""A map's channels in two parts: one inherits, the other explores."""

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import one_of, positive_integer
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class ChannelSplit(nn.Module):
    r"""Cut (N, C, ...) along its channels into :math:`f_{inh}` and :math:`f_{exp}`, for the whole run along the same lines.

    The two sets of indices are buffers: saved, restored, the same on every rank, and what counts after a checkpoint is loaded.

    Args:
        channels: C.
        ratio: The part that inherits, ``round(ratio * channels)`` channels.
        mode: ``'random'``, the paper's; ``'halves'`` gives the first channels to inheritance, the default of the authors' code.
        seed: Of the random draw, which has a generator of its own.

    Raises:
        ValueError: If the ratio is not between 0 and 1, leaves a part empty, or is one half of odd channels; if a map has other channels.

    Source: Huang et al., Revisiting Knowledge Distillation, CVPR 2021.
    """

    inherit_index: Tensor
    explore_index: Tensor

    def __init__(
        self, channels: int, ratio: float = 0.5, mode: str = 'random', seed: int = 0
    ) -> None:
        super().__init__()
        self.channels = positive_integer('channels', channels)
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
            raise ValueError(f'ratio: expected a number between 0 and 1, got {ratio!r}')
        if ratio == 0.5 and channels % 2:
            raise ValueError(
                f'ratio: expected an even number of channels to halve, got {channels}; state another ratio'
            )
        inherit = round(ratio * channels)
        if not 0 < inherit < channels:
            raise ValueError(
                f'ratio: expected at least one channel in each part, got {inherit} and {channels - inherit} '
                f'of {channels} with {ratio!r}'
            )
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f'seed: expected an integer, got {seed!r}')
        if one_of('mode', mode, ('random', 'halves')) == 'random':
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(channels, generator=generator, device='cpu')
        else:
            order = torch.arange(channels)
        self.register_buffer('inherit_index', order[:inherit].sort().values)
        self.register_buffer('explore_index', order[inherit:].sort().values)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The part that inherits and the part that explores, their channels in the order that they had."""
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise ValueError(f'channels: expected (N, {self.channels}, ...), got {tuple(x.shape)}')
        return x.index_select(1, self.inherit_index), x.index_select(1, self.explore_index)
