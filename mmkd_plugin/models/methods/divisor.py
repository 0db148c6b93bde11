"""The divisor of losses that sum over the locations of dense heads."""

from mmengine import dist
from torch import Tensor

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import ClassScores

#: The divisors: the positives of the student, or the confidences of the teacher.
DIVISORS = ('positives', 'confidence')
_BACKGROUND = 0.05


def divisor_of(kind: str, whole: ClassScores, own: ClassScores, other: ClassScores) -> Tensor:
    """Return the number by which a sum over locations is divided, without gradient.

    Args:
        kind: One of :data:`DIVISORS`.
        whole: The student's class scores, with all their locations.
        own: Those at the locations that both networks have.
        other: The teacher's there.

    Raises:
        ConfigError: For ``'positives'``, if no assigner ran.
    """
    if kind == 'positives':
        return count_positives(whole)
    confidence = other.confidence()
    counted = confidence * (confidence >= _BACKGROUND)
    return (counted if own.valid is None else counted * own.valid).sum().clamp_min(1.0)


def count_positives(scores: ClassScores) -> Tensor:
    """Return the number of positive locations, as MMDet's heads count them.

    It is at least 1 for each image, and the mean over the ranks.

    Args:
        scores: The student's class scores, with all their locations.

    Raises:
        ConfigError: If no assigner ran; the key is ``'normalize'``.
    """
    if scores.assigned is None:
        raise ConfigError(
            'normalize',
            "needs the student's own losses, whose assigner finds the positive locations",
            "Write normalize='confidence'. Or write task_weight > 0, with a head that assigns by "
            'get_targets, such as GFL, RetinaNet or FCOS.',
            found='positives',
        )
    counts = (scores.assigned >= 0).sum(dim=1).clamp_min(1)
    total = counts.sum().float()
    dist.all_reduce(total, 'mean')
    return total
