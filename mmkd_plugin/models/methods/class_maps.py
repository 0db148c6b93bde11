"""Class scores of dense heads as maps, whose channels are distributions over the cells."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.losses.cwd import location_divergence
from mmkd_plugin.models.losses.functional import at_least_float32
from mmkd_plugin.models.methods.log_targets import safe_log
from mmkd_plugin.outputs import ClassScores, NetworkOutput, common_scores


def class_maps(scores: ClassScores) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the class maps of each level, and which of their cells count.

    Args:
        scores: Class scores of a dense head.

    Yields:
        Logits (N, anchors, C, cells), and a mask (N, anchors, 1, cells); None if all count.

    Example:
        >>> scores = ClassScores(torch.zeros(2, 14, 3), levels=((2, 3, 2), (1, 2, 1)))
        >>> [tuple(maps.shape) for maps, _ in class_maps(scores)]
        [(2, 2, 3, 6), (2, 1, 3, 2)]
    """
    sizes = [rows * columns * anchors for rows, columns, anchors in scores.levels]
    masks: Sequence[Tensor | None] = [None] * len(sizes)
    if scores.valid is not None:
        masks = scores.valid.split(sizes, dim=1)
    for level, logits, mask in zip(
        scores.levels, scores.logits.split(sizes, dim=1), masks, strict=True
    ):
        of_cells = (-1, level[2])
        maps = logits.unflatten(1, of_cells).permute(0, 2, 3, 1)
        if mask is not None:
            mask = mask.unflatten(1, of_cells).transpose(1, 2).unsqueeze(2)
        yield maps, mask


def class_map_divergence(
    student: NetworkOutput,
    teachers: Sequence[NetworkOutput],
    temperature: float,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Compare where each class is found with a mixture of several teachers.

    .. math:: L = \sum_l \frac{\tau^2}{N A_l C} \sum_{n, a, c} \mathrm{KL}\Bigl(\sum_t w_{t,n}\,
              \mathrm{softmax}_{hw}(t^l_{nac} / \tau) \,\Big\|\,
              \mathrm{softmax}_{hw}(s^l_{nac} / \tau)\Bigr)

    over the levels l with :math:`A_l` anchors. Cells in the padding have probability 0.

    Args:
        student: Output with class scores of a dense head.
        teachers: Outputs with class scores of the same layout, without gradient. Levels of
            differently padded batches are cut to the area that all networks share.
        temperature: :math:`\tau`.
        weights: Weights of the teachers for each image, (N, T); None for a mean. They receive a
            gradient.

    Returns:
        A scalar in float32 or wider.
    """
    own, *others = common_scores(student, teachers)
    log_weights = None if weights is None else safe_log(weights)
    targets = zip(*(class_maps(one) for one in others), strict=True)
    total = []
    for (maps, mask), of_teachers in zip(class_maps(own), targets, strict=True):
        found = [_log_cells(one.detach(), mask, temperature) for one, _ in of_teachers]
        target = _mixed(found, log_weights)
        total.append(location_divergence(_log_cells(maps, mask, temperature), target).mean())
    return temperature**2 * torch.stack(total).sum()


def require_class_maps(student: Probe) -> None:
    """Refuse heads whose class scores form no maps.

    Raises:
        ConfigError: If the student is a classifier, or scores regions or queries.
    """
    scores = student.output.scores
    assert scores is not None
    if not scores.levels:
        raise ConfigError(
            'pairs',
            f'needs the class maps of a dense head, but the networks output {scores}',
            "Name pairs of maps, such as pairs='stages', or use 'DIST' or 'SoftTarget'.",
            found='scores',
        )


def _log_cells(maps: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """Return the logarithms of each channel's distribution over the cells that count."""
    softened = at_least_float32(maps) / temperature
    if mask is not None:  # minus infinity would make products of 0 NaN
        softened = softened.masked_fill(~mask, torch.finfo(softened.dtype).min / 2)
    return softened.log_softmax(dim=-1)


def _mixed(log_cells: Sequence[Tensor], log_weights: Tensor | None) -> Tensor:
    if len(log_cells) == 1:
        return log_cells[0]
    stacked = torch.stack(list(log_cells))
    if log_weights is None:
        return torch.logsumexp(stacked, dim=0) - math.log(len(log_cells))
    return torch.logsumexp(stacked + log_weights.t()[:, :, None, None, None], dim=0)
