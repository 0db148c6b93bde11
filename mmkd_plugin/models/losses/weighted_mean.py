"""The mean over rows, or the sum that the caller weighs them by."""

from torch import Tensor


def weighted_mean(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Reduce the losses of rows, (N,), to a scalar.

    Args:
        rows: One loss a row.
        weights: What each counts, (N,), no gradient; None for 1/N each. They are taken as they are: who weighs decides what they add
            up to, and an empty batch of places gives 0.

    Raises:
        ValueError: If the shapes differ.
    """
    if weights is None:
        return rows.sum() / len(rows)
    if weights.shape != rows.shape:
        raise ValueError(
            f'weights: expected one for each of {len(rows)} rows, got {tuple(weights.shape)}'
        )
    return (weights.detach().to(rows.dtype) * rows).sum()
