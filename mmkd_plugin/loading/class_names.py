"""The class names in meta information, which concatenated data sets state as a list."""

from collections.abc import Mapping, Sequence
from typing import Any


def metas_of(meta: Any) -> list[Mapping[str, Any]]:
    """Return the meta information of each part of a data set.

    A ``ConcatDataset`` of MMDetection has a list of them if its parts differ in any entry. Runs
    save it as it is.

    Example:
        >>> metas_of(dict(classes=['cat'])), metas_of([{}, None]), metas_of(None)
        ([{'classes': ['cat']}], [{}], [])
    """
    parts = [meta] if isinstance(meta, Mapping) else meta
    parts = parts if isinstance(parts, Sequence) and not isinstance(parts, str) else []
    return [part for part in parts if isinstance(part, Mapping)]


def class_lists(meta: Any) -> list[tuple[str, ...]]:
    """Return the distinct lists of class names, under ``classes`` or, in old files, in capitals.

    Example:
        >>> class_lists([dict(classes=['cat', 'dog'], palette=[1]), dict(CLASSES=['cat', 'dog'])])
        [('cat', 'dog')]
    """
    found = (part.get('classes') or part.get('CLASSES') for part in metas_of(meta))
    lists = (tuple(map(str, names)) for names in found if isinstance(names, (list, tuple)))
    return list(dict.fromkeys(lists))


def class_names(meta: Any) -> tuple[str, ...] | None:
    """Return the class names; None if there are none, or several lists of them.

    Example:
        >>> class_names(dict(classes=['cat', 'dog']))
        ('cat', 'dog')
        >>> class_names([dict(classes=['cat']), dict(classes=['dog'])])
    """
    lists = class_lists(meta)
    return lists[0] if len(lists) == 1 else None
