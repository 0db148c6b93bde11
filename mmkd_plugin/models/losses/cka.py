"""Centred kernel alignment: how alike two networks, or two parts of one, tell the images of a batch apart."""

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.registry import MODELS


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Similarity of two representations of the same images, between 0 and 1.

    .. math:: CKA = \frac{\|X^\top Y\|_F^2}{\|X^\top X\|_F \|Y^\top Y\|_F}
                  = \frac{\langle XX^\top, YY^\top \rangle}{\|XX^\top\|_F \|YY^\top\|_F}

    where X and Y are centred: every feature has mean 0 over the batch. Of the two equal forms the cheaper is computed. Blind to
    shifts, to rotations and reflections of the features, and to a common scale; not to scaling features one by one.

    The fewer images there are for the features, the nearer to 1 it is, even for unrelated representations: compare only what
    was measured with as many images and features.

    Args:
        x: Representation of N images, (N, ...), flattened to (N, D_x). Receives a gradient.
        y: Another of the same images, (N, ...); D_y may differ. Receives a gradient as well: detach what shall have none.

    Returns:
        A scalar in float32 or wider, whatever the autocast; 0, without gradient, if either representation is the same for
        all images, hence also for one image. For two images it is 1, without gradient, whatever they are.

    Raises:
        ValueError: If the inputs have no features or differ in N.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019.
    """
    if x.ndim < 2 or y.ndim < 2 or len(x) != len(y):
        raise ValueError(
            f'linear_cka compares (N, ...) with (N, ...), of the same N: got x {tuple(x.shape)}, y {tuple(y.shape)}'
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y = _centred(x.to(dtype)), _centred(y.to(dtype))
    n, d_x, d_y = len(x), x.shape[1], y.shape[1]
    with torch.autocast(x.device.type, enabled=False):  # which would multiply float32 in bfloat16
        if n * (d_x + d_y) <= d_x**2 + d_x * d_y + d_y**2:  # as many multiplications, over n
            of_x, of_y = (x @ x.mT).double(), (y @ y.mT).double()
            alike = (of_x * of_y).sum()
        else:
            of_x, of_y = (x.mT @ x).double(), (y.mT @ y).double()
            alike = (x.mT @ y).double().square().sum()
    # The small matrices are reduced in float64: their entries are fourth powers of the features, which float32 could not hold.
    norms = of_x.norm() * of_y.norm()
    return (alike / norms.masked_fill(norms == 0, torch.inf)).to(dtype)


def _centred(x: Tensor) -> Tensor:
    """(N, D) less its mean over N; exactly 0 if all rows are equal, and exact to the last bits if they nearly are."""
    rows = x.flatten(1)
    rows = (
        rows - rows[:1].detach()
    )  # one row off them all changes neither the result nor its gradient, but keeps digits
    return rows.sub_(rows.mean(dim=0))


@MODELS.register_module()
class LinearCKA(nn.Module):
    """:func:`linear_cka` with a weight, for configs.

    Args:
        loss_weight: Multiplies the similarity.

    Raises:
        ValueError: If the weight is negative or NaN.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = non_negative_number('loss_weight', loss_weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss_weight * linear_cka(x, y)
