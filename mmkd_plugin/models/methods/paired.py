"""Methods on feature maps: pairs of taps, one of the student and one of a teacher."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from mmkd_plugin.adapters.levels import WORDS, LevelFinder, paired_levels
from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.adapters.reduction import Reduction
from mmkd_plugin.errors import ConfigError, config_key
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.tap_checks import check_channels, log_strides
from mmkd_plugin.outputs import NetworkOutput


@dataclass(frozen=True)
class Pair:
    """A tap of the student and a tap of a teacher.

    Args:
        student: Tap of the student.
        teacher: Tap of the teacher.
        index: Index of the teacher.
        student_channels: Channels of the student's map; checked if stated.
        teacher_channels: Channels of the teacher's map; checked if stated.
        checkpoint: Checkpoint of the pair's paraphraser.
        norm: Path of the teacher's normalisation layer before the ReLU.
    """

    student: str
    teacher: str
    index: int = 0
    student_channels: int | None = None
    teacher_channels: int | None = None
    checkpoint: str | None = None
    norm: str | None = None


_OPTIONAL = ('checkpoint', 'norm')


class PairedMethod(Method):
    """A template: one loss for each pair of maps, and their weighted sum.

    A subclass implements :meth:`pair_loss`, and :meth:`build_connectors` if it has connectors.

    Args:
        pairs: ``dict(student='backbone.layer2', teacher='backbone.layer2')`` each; ``index``
            chooses the teacher (0). ``student_channels`` and ``teacher_channels`` are inferred, and
            checked if they are stated. Or one word, which chooses the taps: ``'stages'``,
            ``'neck'`` or ``'last'``, see :class:`~mmkd_plugin.adapters.levels.LevelFinder`.
        weights: See :class:`~mmkd_plugin.models.methods.Method`.

    Raises:
        ConfigError: If there is no pair, or one lacks a tap or has an unknown key.
    """

    #: Words that may stand in place of pairs.
    words: ClassVar[tuple[str, ...]] = WORDS
    #: Name of the loss in logs.
    loss_name: ClassVar[str]
    #: Keys of a pair beside its taps, the teacher's index and the channels.
    pair_keys: ClassVar[tuple[str, ...]] = ()
    #: Whether maps (N, C, H, W) are needed, and features (N, C) refused.
    maps_only: ClassVar[bool] = True

    loss_weight: float

    def __init__(self, pairs: Sequence[Mapping[str, Any]] | str, **weights: float) -> None:
        super().__init__(**weights)
        #: The word in place of pairs; '' if they were stated, or are chosen.
        self.word = pairs if isinstance(pairs, str) and pairs in self.words else ''
        if not self.word and (not isinstance(pairs, (list, tuple)) or not pairs):
            words = ', '.join(map(repr, self.words))
            problem = f'must be a list of dict(student=…, teacher=…), or one of {words}'
            raise ConfigError('pairs', problem, found=pairs)
        given = () if self.word else pairs
        self.pairs = [self._parse(f'pairs[{n}]', pair) for n, pair in enumerate(given)]
        self._reduced: list[str] = []

    def _parse(self, key: str, config: Any) -> Pair:
        if not isinstance(config, Mapping):
            raise ConfigError(key, 'must be dict(student=…, teacher=…)', found=config)
        names = [f.name for f in fields(Pair)]
        known = [name for name in names if name not in _OPTIONAL or name in self.pair_keys]
        for name in ('student', 'teacher'):
            if name not in config:
                raise ConfigError(f'{key}.{name}', 'is missing', 'Name a tap.')
        for name, value in config.items():
            if name not in known:
                keys = ', '.join(known)
                raise ConfigError(
                    f'{key}.{name}',
                    f'is not a key of a pair of {type(self).__name__}',
                    f'The keys are {keys}.',
                    found=value,
                )
        return Pair(**config)

    def choose_taps(self, student: LevelFinder, teachers: Sequence[LevelFinder]) -> list[str]:
        chosen: list[str] = []
        for index, teacher in enumerate(teachers if self.word else ()):
            with config_key('pairs'):
                levels = paired_levels(student, teacher, self.word)
            for own, other in levels:
                self.pairs.append(Pair(own.tap, other.tap, index))
                chosen.append(f'pairs {own} of {student.key} with {other} of {teacher.key}')
        self.word = ''
        return chosen

    def requests(self, num_teachers: int) -> Requests:
        for number, pair in enumerate(self.pairs):
            if pair.index not in range(num_teachers):
                raise ConfigError(
                    f'pairs[{number}].index',
                    f'must be the index of one of {num_teachers} teachers',
                    found=pair.index,
                )
        return Requests(
            student=tuple(pair.student for pair in self.pairs),
            teachers=tuple(
                tuple(pair.teacher for pair in self.pairs if pair.index == index)
                for index in range(num_teachers)
            ),
        )

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        channels = []
        for number, pair in enumerate(self.pairs):
            maps = student.feature(pair.student), teachers[pair.index].feature(pair.teacher)
            with config_key(f'pairs[{number}]'):
                channels.append(self._channels(pair, *maps))
            log_strides(student, pair.student, teachers[pair.index], pair.teacher)
        self.build_connectors(channels, teachers)
        self._reduced = [''] * len(self.pairs)
        for number, pair in enumerate(self.pairs):
            name, teacher = self.reduction_name(number), teachers[pair.index]
            if name and teacher.frozen:
                reduction = Reduction(pair.teacher, name, partial(self.reduce, number))
                self._reduced[number] = teacher.reduce(reduction)

    def build_connectors(
        self, channels: Sequence[tuple[int, int]], teachers: Sequence[TeacherProbe]
    ) -> None:
        """Build the connectors of all pairs; none by default.

        Args:
            channels: Channels of each pair's maps, of the student and of the teacher.
            teachers: Probes of all teachers.

        Raises:
            ConfigError: If a pair does not fit.
        """

    def reduce(self, number: int, teacher: Tensor) -> Tensor:
        """Return all that the method reads of a pair's map of the teacher; by default the map.

        Args:
            number: Index into ``pairs``.
            teacher: The teacher's map, without gradient.
        """
        return teacher

    def reduction_name(self, number: int) -> str:
        """Return a name of the result of :meth:`reduce`, with all that it depends on.

        A store keeps this result in place of the map. '', the default, keeps the map.

        Args:
            number: Index into ``pairs``.
        """
        return ''

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        losses = [self.pair_loss(n, *maps) for n, maps in enumerate(self.maps(student, teachers))]
        return {self.loss_name: self.loss_weight * sum(losses[1:], losses[0])}

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the unweighted loss of one pair, a scalar.

        Args:
            number: Index into ``pairs``.
            student: The student's map, with gradient.
            teacher: The teacher's map, or its reduction, without gradient.
        """
        raise NotImplementedError

    def maps(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each pair's maps, of the student and of its teacher, the latter reduced."""
        for number, pair in enumerate(self.pairs):
            own, output = student.feature(pair.student), teachers[pair.index]
            stored = output.features.get(self._reduced[number]) if self._reduced else None
            if stored is None:
                stored = self.reduce(number, output.feature(pair.teacher))
            yield own, stored

    def _channels(self, pair: Pair, student: Tensor, teacher: Tensor) -> tuple[int, int]:
        for side, tap, found in (
            ('student', pair.student, student),
            ('teacher', pair.teacher, teacher),
        ):
            if found.ndim != 4 and (self.maps_only or found.ndim != 2):
                forms = '(N, C, H, W)' if self.maps_only else '(N, C, H, W) or (N, C)'
                raise ConfigError(
                    side, f'must tap {forms}, but {tap!r} has the shape', found=tuple(found.shape)
                )
        if student.ndim != teacher.ndim:
            raise ConfigError(
                'teacher',
                f'must tap the same form as the student, {tuple(student.shape)}',
                'Pair a map with a map, and a vector with a vector.',
                found=tuple(teacher.shape),
            )
        return (
            check_channels('student_channels', pair.student_channels, student),
            check_channels('teacher_channels', pair.teacher_channels, teacher),
        )
