"""The global context block, which adds one vector of an image to all of its locations."""

from torch import Tensor, nn

from mmkd_plugin.errors import positive_integer


class GlobalContext(nn.Module):
    r"""Add a transform of the attention-pooled map to the map.

    .. math:: y = x + W_2\, \mathrm{ReLU}(\mathrm{LN}(W_1 z)), \quad
              z = \sum_{hw} \mathrm{softmax}_{hw}(w x)_{hw}\, x_{hw}

    The last layer starts at 0, so the block starts as the identity.

    Args:
        channels: Channels of the map.

    Shape:
        (N, C, H, W) to (N, C, H, W). The attention has (N, 1, H, W).

    Example:
        >>> import torch
        >>> x = torch.rand(2, 8, 4, 4)
        >>> torch.equal(GlobalContext(8)(x), x)
        True

    Reference:
        Cao et al., GCNet, ICCV Workshops 2019; FGD, CVPR 2022, eq. 12.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = max(positive_integer('channels', channels) // 2, 1)
        self.attention = nn.Conv2d(channels, 1, kernel_size=1)
        last = nn.Linear(middle, channels)
        self.transform = nn.Sequential(
            nn.Linear(channels, middle), nn.LayerNorm(middle), nn.ReLU(inplace=True), last
        )
        nn.init.kaiming_normal_(self.attention.weight, mode='fan_in', nonlinearity='relu')
        nn.init.zeros_(self.attention.bias)  # type: ignore[arg-type]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map with its context, (N, C, H, W)."""
        weights = self.attention(x).flatten(2).float().softmax(dim=2).to(x.dtype)
        context = (x.flatten(2) @ weights.transpose(1, 2)).squeeze(2)
        vector: Tensor = self.transform(context)
        return x + vector[..., None, None].to(x.dtype)
