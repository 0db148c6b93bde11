"""What an epoch's weights were, for logs and pictures."""

import torch
from torch import Tensor, nn


class WeightRecord(nn.Module):
    """Sums of the weights that images gave to teachers, by class, since the last :meth:`reset`.

    Its sums are buffers that are not saved: they follow the device, and a resumed run begins its epoch anew.

    Args:
        num_teachers: T.
        num_classes: C.
    """

    class_sums: Tensor
    class_counts: Tensor
    totals: Tensor
    count: Tensor

    def __init__(self, num_teachers: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer('class_sums', torch.zeros(num_classes, num_teachers), persistent=False)
        self.register_buffer('class_counts', torch.zeros(num_classes), persistent=False)
        # The last entry is the entropy's.
        self.register_buffer('totals', torch.zeros(num_teachers + 1), persistent=False)
        self.register_buffer('count', torch.zeros(()), persistent=False)

    def forward(self, weights: Tensor, labels: Tensor | None) -> Tensor:
        """Add a batch of weights (N, T) with its labels, (N,) or (N, C) or none; return their mean entropy in units of log T."""
        weights = weights.detach().float()
        entropy = (
            -torch.xlogy(weights, weights).sum(dim=1)
            / torch.tensor(float(max(weights.shape[1], 2))).log()
        )
        self.totals += torch.cat([weights.sum(dim=0), entropy.sum(dim=0, keepdim=True)])
        self.count += len(weights)
        if labels is not None:
            if labels.ndim == 1:
                self.class_sums.index_add_(0, labels, weights)
                self.class_counts.index_add_(0, labels, torch.ones_like(weights[:, 0]))
            else:  # mixed labels: an image counts for each of its classes by its share
                shares = labels.float()
                self.class_sums += shares.T @ weights
                self.class_counts += shares.sum(dim=0)
        return entropy.mean()

    def reset(self) -> None:
        """Forget."""
        for sums in self.buffers():
            sums.zero_()
