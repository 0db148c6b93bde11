"""Whether the outputs of two networks can be compared: task, classes, layout of class scores."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmengine.logging import MessageHub

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.class_names import class_lists
from mmkd_plugin.outputs import BoxOutputs, ClassScores, NetworkOutput


def require_same_task(key: str, adapter: Adapter, other_key: str, other: Adapter) -> None:
    """Refuse a classifier beside a detector; models of an unknown task pass.

    Raises:
        ConfigError: If the tasks differ.
    """
    if adapter.task and other.task and adapter.task != other.task:
        raise ConfigError(
            key, f'must be a model for {other.task}, as {other_key} is', found=adapter.task
        )


def require_comparable(
    key: str, output: NetworkOutput, other_key: str, other: NetworkOutput
) -> None:
    """Refuse class scores in another layout, or of another number of classes.

    Layouts are equal if levels, strides, locations, anchors, background and activation are; the
    kinds of heads may differ. Boxes, where they are requested, must have one kind and coding too.

    Raises:
        ConfigError: If they differ. The message shows both layouts.
    """
    found, expected = output.scores, other.scores
    if found is None or expected is None:
        raise ConfigError(key, 'outputs no class scores', found=None)
    if _layout(found) != _layout(expected):
        raise ConfigError(
            key,
            f'the class scores must have the layout of {other_key}, {expected}',
            'Use methods on taps alone, or a model with the same levels, anchors and activation.',
            found=_Shown(found),
        )
    if found.strides and expected.strides and found.strides != expected.strides:
        raise ConfigError(
            key,
            f'the class scores must have the strides of {other_key}, {expected}',
            'Use methods on taps alone, or a model whose levels have the same strides.',
            found=_Shown(found),
        )
    if found.num_classes != expected.num_classes:
        raise ConfigError(
            key,
            f'must output the {expected.num_classes} classes of {other_key}',
            'Add class_map=[…] to the teacher: for each class of the student the index of the '
            'teacher’s class. Peers must have the same classes.',
            found=found.num_classes,
        )
    boxes, own = output.boxes, other.boxes
    if boxes is not None and own is not None and boxes.layout != own.layout:
        raise ConfigError(
            key,
            f'the boxes must have the form of {other_key}, {own}',
            'Use methods on class scores or taps, or a model that codes boxes in the same way.',
            found=_Shown(boxes),
        )


class _Shown:
    """Shows class scores or boxes by their layout in a message."""

    def __init__(self, scores: ClassScores | BoxOutputs) -> None:
        self.scores = scores

    def __repr__(self) -> str:
        return str(self.scores)


def _layout(scores: ClassScores) -> object:
    kinds = len(scores.rois), scores.queries
    return scores.activation, scores.background, scores.levels, *kinds


class ClassMap:
    """Maps the class scores of a teacher to the classes of the student.

    Under a softmax they become probabilities among the chosen classes and the background.

    Args:
        indices: For each class of the student the teacher's index of it; None for equal classes.
        key: The config key, for messages.

    Raises:
        ConfigError: If the indices are no list of integers >= 0.
    """

    def __init__(self, indices: Any, key: str) -> None:
        wrong = not isinstance(indices, (list, tuple)) or not indices
        if indices is not None and (
            wrong or not all(type(index) is int and index >= 0 for index in indices)
        ):
            raise ConfigError(
                key,
                'must be a list of class indices of the teacher, one for each student class',
                found=indices,
            )
        self.indices: Sequence[int] | None = indices
        self.key = key

    def __call__(self, output: NetworkOutput) -> NetworkOutput:
        """Return the outputs in the student's classes.

        Raises:
            ConfigError: If the teacher has no such class.
        """
        scores = output.scores
        if self.indices is None or scores is None:
            return output
        if max(self.indices) >= scores.num_classes:
            raise ConfigError(
                self.key,
                f'must hold indices below {scores.num_classes}, the number of teacher classes',
                found=max(self.indices),
            )
        return replace(output, scores=scores.with_classes(self.indices))

    def require_names(
        self, found: Sequence[str] | None, whose: str, expected: Sequence[str] | None
    ) -> None:
        """Refuse classes of other names or in another order, unless there is a map.

        Args:
            found: Class names in the teacher's checkpoint; None if it has none.
            whose: Whose names ``expected`` are.
            expected: The names to compare with, or None.

        Raises:
            ConfigError: If they differ.
        """
        known = found is not None and expected is not None
        if self.indices is not None or not known or tuple(found or ()) == tuple(expected or ()):
            return
        assert found is not None and expected is not None
        differing = [i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b]
        first = ''
        if differing:
            i = differing[0]
            first = f'; class {i} is {expected[i]!r} there and {found[i]!r} here'
        raise ConfigError(
            self.key,
            f'is missing: the teacher was trained on {len(found)} classes and {whose} has '
            f'{len(expected)}, with other names{first}',
            'Give for each student class the index of the teacher’s class. If the classes are the '
            f'same, write class_map={list(range(len(found)))}.',
        )


def meta_of_data() -> Any:
    """Return the meta information of the training data, as MMEngine's Runner publishes it."""
    return MessageHub.get_current_instance().runtime_info.get('dataset_meta')


def require_names_of_data(teachers: Sequence[Any], meta: Any) -> None:
    """Refuse detectors whose checkpoint names other classes than the training data.

    Args:
        teachers: :class:`~mmkd_plugin.adapters.Teacher` each.
        meta: Meta information of the training data. Concatenated data sets can have a list of them
            with different classes; the teacher's must then be those of each.

    Raises:
        ConfigError: If class scores of such a detector are needed and it has no ``class_map``.
    """
    for teacher in teachers:
        if teacher.adapter.task == 'detection' and teacher.needs_scores:
            for names in class_lists(meta):
                teacher.class_map.require_names(teacher.classes, 'the training data', names)
