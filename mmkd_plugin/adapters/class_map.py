"""A teacher of other classes: which of its own each of the student's classes is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmkd_plugin.outputs import ClassScores, Knowledge


class ClassMap:
    """Takes a teacher's class scores to the student's classes.

    Under a softmax they become probabilities among the chosen classes (and the background).

    Args:
        indices: For each class of the student the teacher's index of it; None if the classes are the same.
        key: The config key, for messages.

    Raises:
        ValueError: If they are no indices.
    """

    def __init__(self, indices: Any, key: str) -> None:
        wrong = not isinstance(indices, (list, tuple)) or not indices
        if indices is not None and (
            wrong or not all(type(index) is int and index >= 0 for index in indices)
        ):
            raise ValueError(
                f'{key}: expected the index of a class of the teacher for each of the student, got {indices!r}'
            )
        self.indices: Sequence[int] | None = indices
        self.key = key

    def __call__(self, knowledge: Knowledge) -> Knowledge:
        """The same knowledge in the student's classes.

        Raises:
            ValueError: If the teacher has no such class.
        """
        logits = knowledge.logits
        if self.indices is None or logits is None:
            return knowledge
        classes = logits.classes if isinstance(logits, ClassScores) else logits.shape[-1]
        if max(self.indices) >= classes:
            raise ValueError(
                f'{self.key}: expected indices below {classes}, the classes of the teacher, got {max(self.indices)}'
            )
        chosen = (
            logits.with_classes(self.indices)
            if isinstance(logits, ClassScores)
            else logits[..., list(self.indices)]
        )
        return replace(knowledge, logits=chosen)

    def require_names(
        self, found: Sequence[str] | None, whose: str, expected: Sequence[str] | None
    ) -> None:
        """Refuse a teacher that was trained on classes of other names, or in another order, unless a map says which are meant.

        Args:
            found: The teacher's, as its checkpoint has them; None if it does not say.
            whose: Whose names are the measure.
            expected: Those names, or None.

        Raises:
            ValueError: If they differ, and there is no map.
        """
        if (
            self.indices is not None
            or found is None
            or expected is None
            or tuple(found) == tuple(expected)
        ):
            return
        pairs = zip(expected, found, strict=False)
        index, (name, other) = next(
            ((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1]), (0, ('', ''))
        )
        raise ValueError(
            f'{self.key}: expected the index of a class of the teacher for each class of {whose}, where they differ: {len(expected)} '
            f'and {len(found)}, class {index} is {name!r} here and {other!r} there; got none. If they are the same, say so: '
            f'class_map={list(range(len(found)))}'
        )
