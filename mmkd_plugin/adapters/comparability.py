"""Before training: whether what two networks say can be compared at all."""

from torch import Tensor, nn

from mmkd_plugin.adapters import Host
from mmkd_plugin.outputs import ClassScores, Knowledge


def require_scores(key: str, model: nn.Module, host: Host) -> None:
    """Refuse a network whose class scores are wanted and unknown.

    Raises:
        ValueError: If so; the message begins with the key.
    """
    if not host.score_taps:
        raise ValueError(
            f'{key}: expected a model whose class scores are known, got {type(model).__name__}: {host.why_no_scores}'
        )


def require_same_task(key: str, host: Host, whose: str, other: Host) -> None:
    """Refuse a classifier among detectors, and a detector among classifiers; a model that no host knows is taken at its word.

    Raises:
        ValueError: If so; the message begins with the key.
    """
    if host.task and other.task and host.task != other.task:
        raise ValueError(
            f'{key}: expected a model for {other.task}, as {whose} is, got one for {host.task}'
        )


def require_comparable(
    key: str, seen: Knowledge, whose: str, other: Knowledge, of_other_classes: str = ''
) -> None:
    """Refuse class scores in another layout, or of another number of classes, than those of ``whose`` network.

    Layouts are equal when locations, levels, anchors and the activation are; the kinds of heads may differ.

    Args:
        key: The config key of the network that is looked at.
        seen: What it said.
        whose: Whose classes and layout are the measure.
        other: What that network said.
        of_other_classes: What to do where the classes differ.

    Raises:
        ValueError: If so; the message begins with the key and shows both layouts.
    """
    found, expected = seen.logits, other.logits
    if isinstance(found, ClassScores) and isinstance(expected, ClassScores):
        if _layout(found) != _layout(expected):
            raise ValueError(
                f'{key}: expected class scores in the layout of {whose}, {expected}; got {found}. Use methods on taps alone, or a '
                'model with the same levels, anchors and activation'
            )
        classes: tuple[object, object] = expected.classes, found.classes
    else:
        classes = _columns(expected), _columns(found)
    if classes[0] != classes[1]:
        raise ValueError(
            f'{key}: expected the {classes[0]} classes of {whose}, got {classes[1]}{of_other_classes}'
        )


def _columns(scores: Tensor | ClassScores | None) -> object:
    return (
        scores.shape[-1]
        if isinstance(scores, Tensor)
        else 'no'
        if scores is None
        else scores.classes
    )


def _layout(scores: ClassScores) -> object:
    return scores.activation, scores.levels, len(scores.rois)
