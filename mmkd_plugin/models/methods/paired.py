"""What methods on feature maps share: pairs of taps, one of the student and one of a teacher."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from mmkd_plugin.models.methods.base import Method
from mmkd_plugin.models.methods.channels import feature, stated_channels
from mmkd_plugin.outputs import Knowledge


class PairedMethod(Method):
    """A method that compares maps by pairs of taps; it needs neither class scores nor labels.

    Args:
        pairs: ``dict(student='backbone.layer2', teacher='backbone.layer2')`` each; ``index`` names the teacher (0),
            ``student_channels`` and ``teacher_channels`` may be stated, otherwise they are inferred.

    Raises:
        ValueError: If there is none, or one lacks a tap or has a key too many.
    """

    needs_scores = False
    #: What a pair may say beside its taps, the teacher's index and the channels.
    pair_keys: ClassVar[frozenset[str]] = frozenset()
    #: Whether a map (N, C, H, W) is needed, not features (N, C).
    maps_only: ClassVar[bool] = True

    def __init__(self, pairs: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        if not isinstance(pairs, (list, tuple)) or not pairs:
            raise ValueError(f'pairs: expected a list of dict(student=…, teacher=…), got {pairs!r}')
        known = {
            'student',
            'teacher',
            'index',
            'student_channels',
            'teacher_channels',
            *self.pair_keys,
        }
        for number, pair in enumerate(pairs):
            if not isinstance(pair, Mapping) or not {'student', 'teacher'} <= pair.keys() <= known:
                raise ValueError(
                    f'pairs[{number}]: expected dict(student=…, teacher=…) and of {sorted(known)}, got {pair!r}'
                )
        self.pairs = [dict(pair) for pair in pairs]
        self.student_taps = tuple(pair['student'] for pair in pairs)

    def taps_of_teacher(self, index: int, count: int) -> tuple[str, ...]:
        for number, pair in enumerate(self.pairs):
            if pair.get('index', 0) not in range(count):
                raise ValueError(
                    f'pairs[{number}].index: expected one of {count} teachers, got {pair.get("index")!r}'
                )
        return tuple(pair['teacher'] for pair in self.pairs if pair.get('index', 0) == index)

    def maps(
        self, student: Knowledge, teachers: Sequence[Knowledge]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each pair's map of the student and of its teacher, in the order of ``pairs``."""
        for pair in self.pairs:
            yield (
                feature(student, pair['student']),
                feature(teachers[pair.get('index', 0)], pair['teacher']),
            )

    def channels(
        self, student: Knowledge, teachers: Sequence[Knowledge]
    ) -> Iterator[tuple[int, int]]:
        """Each pair's channels, of the student's map and of the teacher's.

        Raises:
            ValueError: If they are not those that the config states, or the tap gives no map.
        """
        for number, (pair, maps) in enumerate(
            zip(self.pairs, self.maps(student, teachers), strict=True)
        ):
            keys = [f'pairs[{number}].{side}_channels' for side in ('student', 'teacher')]
            for side, seen in zip(('student', 'teacher'), maps, strict=True):
                if self.maps_only and seen.ndim != 4:
                    raise ValueError(
                        f'pairs[{number}].{side}: expected a tap that gives maps (N, C, H, W), {pair[side]!r} gives '
                        f'{tuple(seen.shape)}'
                    )
            source, target = (
                stated_channels(key, pair.get(key.rpartition('.')[2]), seen)
                for key, seen in zip(keys, maps, strict=True)
            )
            yield source, target
