"""Class scores of dense heads, one row a cell: the layout of DIST's authors."""

from collections.abc import Sequence

import torch

from mmkd_plugin.adapters.probe import Probe
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.losses.functional import at_least_float32
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.outputs import ClassScores, NetworkOutput, ScoreRows, common_scores


def cell_rows(
    student: NetworkOutput, teachers: Sequence[NetworkOutput], location_weights: LocationWeights
) -> list[ScoreRows]:
    """Put the class scores of several networks side by side, level by level.

    Args:
        student: Output with class scores of a dense head.
        teachers: Outputs with class scores of the same layout.
        location_weights: Weights of the locations. The weight of a cell is the sum over its
            anchors; cells of weight 0 give no row.

    Returns:
        Rows of each level. The columns are the classes of all anchors.

    Example:
        >>> scores = ClassScores(torch.zeros(2, 14, 3), 'sigmoid', levels=((2, 3, 2), (1, 2, 1)))
        >>> rows = cell_rows(NetworkOutput(scores), [NetworkOutput(scores)], LocationWeights())
        >>> [tuple(one.student.shape) for one in rows]
        [(12, 6), (4, 3)]
    """
    own, *others = common_scores(student, teachers)
    sizes = [rows * columns * anchors for rows, columns, anchors in own.levels]
    with torch.no_grad():
        confidence = torch.stack([one.confidence() for one in others]).amax(dim=0)
        weights = location_weights(confidence, own.valid).split(sizes, dim=1)
    parts = zip(*(_levels(one, sizes) for one in (own, *others)), strict=True)
    result = []
    for (_, _, anchors), weight, of_level in zip(own.levels, weights, parts, strict=True):
        cells = weight.unflatten(1, (-1, anchors)).sum(dim=2)
        images, columns = cells.nonzero(as_tuple=True)
        rows, *targets = (
            at_least_float32(one.unflatten(1, (-1, anchors)).flatten(2)[images, columns])
            for one in of_level
        )
        stacked = torch.stack([one.detach() for one in targets], dim=1)
        weight = cells[images, columns]
        result.append(ScoreRows(rows, stacked, own.activation, images, weight))
    return result


def require_cells(student: Probe) -> None:
    """Refuse heads whose cells have no independent class probabilities.

    Raises:
        ConfigError: If the student has no dense head with a sigmoid; about ``rows``.
    """
    scores = student.output.scores
    assert scores is not None
    if not scores.levels or scores.activation != 'sigmoid':
        raise ConfigError(
            'rows',
            f"must be 'locations', as only dense heads with a sigmoid have such cells, and the "
            f'networks output {scores}',
            found='cells',
        )


def _levels(scores: ClassScores, sizes: Sequence[int]) -> Sequence[torch.Tensor]:
    parts: Sequence[torch.Tensor] = scores.logits.split(list(sizes), dim=1)
    return parts
