"""The teacher weights of an epoch, summed for logs and pictures."""

import torch
from torch import Tensor, nn


class WeightRecord(nn.Module):
    """Sum the teacher weights of images, in total and by class, since the last :meth:`reset`.

    The sums are buffers that are not saved. They follow the device, and a resumed run begins its
    epoch anew.

    Args:
        num_teachers: T.
        num_classes: C.

    Attributes:
        class_sums: Sums of the weights by class, (C, T).
        class_counts: Number of images by class, (C,).
        totals: Sums of the weights of all images and, last, of their entropy, (T + 1,).
        count: Number of images.

    Example:
        >>> record = WeightRecord(num_teachers=2, num_classes=3)
        >>> entropy = record(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 2]))
        >>> round(entropy.item(), 4)
        0.5
        >>> record.class_sums.tolist()
        [[1.0, 0.0], [0.0, 0.0], [0.5, 0.5]]
    """

    class_sums: Tensor
    class_counts: Tensor
    totals: Tensor
    count: Tensor

    def __init__(self, num_teachers: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer('class_sums', torch.zeros(num_classes, num_teachers), persistent=False)
        self.register_buffer('class_counts', torch.zeros(num_classes), persistent=False)
        self.register_buffer('totals', torch.zeros(num_teachers + 1), persistent=False)
        self.register_buffer('count', torch.zeros(()), persistent=False)

    def forward(self, weights: Tensor, labels: Tensor | None) -> Tensor:
        """Add the weights of a batch.

        Args:
            weights: (N, T).
            labels: Class indices (N,), or shares of the classes (N, C), by which a mixed image
                counts for each of its classes. None leaves the sums by class as they are.

        Returns:
            The mean entropy of the weights, in units of log T.
        """
        weights = weights.detach().to(self.totals.dtype)
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
            else:
                shares = labels.to(self.totals.dtype)
                self.class_sums += shares.T @ weights
                self.class_counts += shares.sum(dim=0)
        return entropy.mean()

    def reset(self) -> None:
        """Set all sums to 0."""
        for sums in self.buffers():
            sums.zero_()
