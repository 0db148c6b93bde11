"""Score readers: functions that find the class scores in what a head returns.

MMPretrain's and MMDet's heads are registered beside their adapters. A head of another project
becomes known by registering its reader.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

#: A list of tensors, or for dense heads a :class:`HeadOutput` with the boxes as well.
Read = Callable[[nn.Module, Any], Any]
F = TypeVar('F', bound=Read)


@dataclass(frozen=True)
class ScoreReader:
    """How the class scores of a kind of head are read.

    Args:
        read: Maps the head and its output to the logits: for a dense head a list with one tensor
            (N, anchors * C, H, W) a level; for a classifier's head a list of one tensor (N, C).
            A dense head's reader may return a :class:`~mmkd_plugin.adapters.HeadOutput`.
        overrides: Methods that decide what the head returns.
        activation: ``'sigmoid'`` or ``'softmax'``; None: as the head or its loss states it.
        tap: Path of the module inside the head whose output is read; the head itself if empty.
    """

    read: Read
    overrides: tuple[str, ...]
    activation: str | None = None
    tap: str = ''


_READERS: dict[str | type, ScoreReader] = {}


def register_score_reader(
    *heads: str | type,
    overrides: Sequence[str] = ('forward', 'forward_single'),
    activation: str | None = None,
    tap: str = '',
) -> Callable[[F], F]:
    """Register a function that reads the class scores of heads.

    A subclass of a registered head is known too, unless it overrides one of ``overrides``: then
    its output may mean something else. The attribute ``num_classes`` of a dense head is the number
    of classes without the background.

    Args:
        heads: Classes, or names such as ``'mmdet.RetinaHead'``: the top-level package and the
            class. A name does not import the package.
        overrides: Methods that decide what the head returns.
        activation: ``'sigmoid'`` or ``'softmax'``. By default it is that of a dense head's
            ``use_sigmoid_cls``, and for a classifier it is measured at the loss.
        tap: Path of a module inside the head whose output is read in place of the head's. The
            function still receives the head.

    Example:
        >>> from torch import nn
        >>> class MyHead(nn.Module):
        ...     def forward(self, x):
        ...         return dict(scores=[x], boxes=[x])
        >>> @register_score_reader(MyHead, activation='sigmoid')
        ... def read_my_head(head, output):
        ...     return output['scores']
        >>> find_score_reader(MyHead()).activation
        'sigmoid'
    """

    def register(read: F) -> F:
        for head in heads:
            _READERS[head] = ScoreReader(read, tuple(overrides), activation, tap)
        return read

    return register


def find_score_reader(head: object) -> ScoreReader | None:
    """Return the reader of the nearest registered class of a head.

    None if there is none, or if a class before it overrides what decides the output.
    """
    overridden: set[str] = set()
    for cls in type(head).__mro__:
        reader = _READERS.get(cls) or _READERS.get(_name(cls))
        if reader is not None:
            return None if overridden.intersection(reader.overrides) else reader
        overridden.update(vars(cls))
    return None


def overridden_head(head: object) -> str:
    """Return the nearest registered class whose output a head overrides; empty if none."""
    if find_score_reader(head) is None:
        for cls in type(head).__mro__:
            if cls in _READERS or _name(cls) in _READERS:
                return cls.__name__
    return ''


def registered_heads(project: str) -> list[str]:
    """Return the names of the heads that are registered for a project."""
    names = [head if isinstance(head, str) else _name(head) for head in _READERS]
    return [name.partition('.')[2] for name in names if name.startswith(f'{project}.')]


def _name(cls: type) -> str:
    return f'{cls.__module__.partition(".")[0]}.{cls.__name__}'
