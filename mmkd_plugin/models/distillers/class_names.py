"""Whether a detector's teachers mean by their classes what the training data mean."""

from collections.abc import Sequence

from mmengine.logging import MessageHub

from mmkd_plugin.adapters.teacher import Teacher


def require_names_of_data(teachers: Sequence[Teacher], classes: Sequence[str] | None) -> None:
    """Refuse detectors whose class scores are wanted, and whose checkpoint names other classes, or in another order.

    Data sets of detection and checkpoints of detectors both name their classes, so a mistake that no shape shows is found.

    Args:
        teachers: The run's.
        classes: Of the training data; None if they are unknown.

    Raises:
        ValueError: If they differ, and there is no ``class_map``; the message begins with the key.
    """
    for teacher in teachers:
        if teacher.host.task == 'detection' and teacher.needs_scores:
            teacher.class_map.require_names(teacher.classes, 'the training data', classes)


def classes_of_data() -> Sequence[str] | None:
    """The names that the training data have, as MMEngine's ``RuntimeInfoHook`` tells them; None without a Runner."""
    meta = MessageHub.get_current_instance().runtime_info.get('dataset_meta') or {}
    classes: Sequence[str] | None = meta.get('classes')
    return classes
