"""The number of locations that a student's assigner made positive."""

from mmengine import dist
from torch import Tensor

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import ClassScores


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
