"""Weights and temperatures that change during training."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

from mmengine.logging import MessageHub

from mmkd_plugin.errors import ConfigError, non_negative_number
from mmkd_plugin.registry import MODELS, build_part


class Schedule(ABC):
    """A number as a function of the epoch or of the iteration, counted from 0.

    Args:
        begin: First epoch or iteration of the schedule. Before it the number has its first value.
        end: Epoch or iteration at which the schedule has ended. From then on the number has its
            last value. None: never.
        by_epoch: Whether epochs count, or iterations.

    Raises:
        ConfigError: If the end is not after the beginning.
    """

    def __init__(self, begin: int = 0, end: int | None = None, by_epoch: bool = True) -> None:
        if type(begin) is not int or begin < 0:
            raise ConfigError('begin', 'must be an integer >= 0', found=begin)
        if end is not None and (type(end) is not int or end <= begin):
            raise ConfigError('end', f'must be an integer above begin, {begin}', found=end)
        if not isinstance(by_epoch, bool):
            raise ConfigError('by_epoch', 'must be True or False', found=by_epoch)
        self.begin, self.end, self.by_epoch = begin, end, by_epoch

    @abstractmethod
    def at(self, time: int) -> float:
        """Return the number at an epoch or iteration between begin and end, both included."""

    def values(self) -> Sequence[float]:
        """Return its smallest and its largest number, in any order."""
        return self.at(self.begin), self.at(self.begin if self.end is None else self.end)


@MODELS.register_module()
class ConstantSchedule(Schedule):
    """One number from begin to end.

    Args:
        value: The number.
        begin, end, by_epoch: See :class:`Schedule`.
    """

    def __init__(
        self, value: float, begin: int = 0, end: int | None = None, by_epoch: bool = True
    ) -> None:
        super().__init__(begin, end, by_epoch)
        self.value = non_negative_number('value', value)

    def at(self, time: int) -> float:
        return self.value


@MODELS.register_module()
class LinearSchedule(Schedule):
    """A straight line from ``start`` at begin to ``stop`` at end.

    Args:
        start: First number.
        stop: Last number.
        begin, end, by_epoch: See :class:`Schedule`; the end must be stated.

    Example:
        >>> warm_up = LinearSchedule(0.0, 1.0, end=4)
        >>> [warm_up.at(epoch) for epoch in range(5)]
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """

    def __init__(
        self, start: float, stop: float, end: int, begin: int = 0, by_epoch: bool = True
    ) -> None:
        super().__init__(begin, end, by_epoch)
        self.start = non_negative_number('start', start)
        self.stop = non_negative_number('stop', stop)

    def at(self, time: int) -> float:
        done = self._shape((time - self.begin) / (cast(int, self.end) - self.begin))
        return self.start + done * (self.stop - self.start)

    def _shape(self, part: float) -> float:
        return part


@MODELS.register_module()
class CosineSchedule(LinearSchedule):
    r"""Half a cosine from ``start`` at begin to ``stop`` at end.

    At the part :math:`p` of the time the part :math:`(1 - \cos \pi p) / 2` of the way is done.
    """

    def _shape(self, part: float) -> float:
        return (1 - math.cos(math.pi * part)) / 2


@MODELS.register_module()
class StepSchedule(Schedule):
    """A number that is multiplied by ``gamma`` at each milestone.

    Args:
        start: First number.
        milestones: Epochs or iterations, in order, from begin to end.
        gamma: The factor.
        begin, end, by_epoch: See :class:`Schedule`.
    """

    def __init__(
        self,
        start: float,
        milestones: Sequence[int],
        gamma: float = 0.1,
        begin: int = 0,
        end: int | None = None,
        by_epoch: bool = True,
    ) -> None:
        super().__init__(begin, end, by_epoch)
        self.start = non_negative_number('start', start)
        self.gamma = non_negative_number('gamma', gamma)
        whole = isinstance(milestones, (list, tuple)) and all(type(n) is int for n in milestones)
        if not whole or not milestones or list(milestones) != sorted(set(milestones)):
            raise ConfigError('milestones', 'must be integers in order', found=milestones)
        if milestones[0] < self.begin or milestones[-1] > (self.end or math.inf):
            raise ConfigError('milestones', 'must lie between begin and end', found=milestones)
        self.milestones = list(milestones)

    def at(self, time: int) -> float:
        return self.start * self.gamma ** sum(time >= one for one in self.milestones)

    def values(self) -> Sequence[float]:
        return self.at(self.begin), self.at(self.milestones[-1])


class ScheduledNumber:
    """The present value of a schedule, in the place of a plain number.

    It is multiplied, compared and converted as that number. While methods are built it is the
    largest value, so that all that is needed at any time is built.

    Args:
        pieces: Schedules in order, each beginning where the one before ends.
        key: Config key, for messages.

    Raises:
        ConfigError: If there is a gap or an overlap, or if the pieces count differently.

    Example:
        >>> number = ScheduledNumber([LinearSchedule(0.0, 2.0, end=4)], 'loss_weight')
        >>> number.lowest, number * 3
        (0.0, 6.0)
        >>> number.set_time(iteration=70, epoch=1)
        >>> number * 3
        1.5
    """

    def __init__(self, pieces: Sequence[Schedule], key: str) -> None:
        for one, following in itertools.pairwise(pieces):
            if one.by_epoch != following.by_epoch:
                raise ConfigError(key, 'must count epochs in all parts, or iterations in all')
            if one.end != following.begin:
                fault = (
                    'has a gap'
                    if one.end is not None and one.end < following.begin
                    else ('overlaps')
                )
                raise ConfigError(
                    key,
                    f'{fault} between its parts: each must begin where the one before ends',
                    f'Write begin={one.end}, or state the end of the part before.',
                    found=following.begin,
                )
        self.key = key
        self._pieces = list(pieces)
        numbers = [value for piece in pieces for value in piece.values()]
        #: Its smallest value at any time.
        self.lowest = min(numbers)
        self._value = max(numbers)

    @property
    def by_epoch(self) -> bool:
        """Whether epochs count, or iterations."""
        return self._pieces[0].by_epoch

    @property
    def last_end(self) -> int:
        """The epoch or iteration from which on it is constant."""
        return max(piece.end or piece.begin for piece in self._pieces)

    def set_time(self, iteration: int, epoch: int) -> None:
        """Take the value of an iteration, and of its epoch, both counted from 0."""
        time = epoch if self.by_epoch else iteration
        begun = [piece for piece in self._pieces if piece.begin <= time] or self._pieces[:1]
        piece = begun[-1]
        latest = time if piece.end is None else min(time, piece.end)
        self._value = piece.at(max(latest, piece.begin))

    def __float__(self) -> float:
        return self._value

    def __bool__(self) -> bool:
        return self._value != 0

    def __gt__(self, other: float) -> bool:
        return self._value > other

    def __eq__(self, other: object) -> bool:
        return self._value == other

    __hash__ = None  # type: ignore[assignment]

    def __mul__(self, other: Any) -> Any:
        return self._value * other

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f'{self._value:g}'


def scheduled(config: Any, key: str) -> tuple[Any, dict[str, ScheduledNumber]]:
    """Replace the schedules in a config by their numbers.

    Args:
        config: Config of a method, with schedules in place of numbers: a dict whose type is a
            :class:`Schedule`, or a list of such.
        key: Its config key.

    Returns:
        A copy of the config, and the numbers by their place below ``key``.

    Raises:
        ConfigError: If a schedule is wrong.
    """
    numbers: dict[str, ScheduledNumber] = {}

    def replaced(value: Any, place: str) -> Any:
        several = isinstance(value, (list, tuple))
        path, pieces = f'{key}.{place}', value if several else [value]
        if pieces and all(_is_schedule(piece) for piece in pieces):
            built = [
                build_part(piece, Schedule, f'{path}[{index}]' if several else path)
                for index, piece in enumerate(pieces)
            ]
            numbers[place] = ScheduledNumber(built, path)
            return numbers[place]
        if isinstance(value, Mapping):
            return {name: replaced(v, f'{place}.{name}') for name, v in value.items()}
        return value

    if not isinstance(config, Mapping):
        return config, numbers
    found = {name: replaced(value, str(name)) for name, value in config.items()}
    return (found if numbers else config), numbers


def _is_schedule(config: Any) -> bool:
    return isinstance(config, Mapping) and 'Schedule' in str(config.get('type'))


def set_time_of(numbers: Mapping[str, ScheduledNumber]) -> None:
    """Set numbers to the present iteration of the run.

    Raises:
        ConfigError: If nothing says which iteration this is, or if epochs are counted in a run
            that has one.
    """
    hub = MessageHub.get_current_instance()
    iteration, epoch = hub.get_info('iter', None), hub.get_info('epoch', None)
    for number in numbers.values():
        if iteration is None or epoch is None:
            raise ConfigError(
                number.key,
                'needs the iteration, which the RuntimeInfoHook of a Runner publishes',
                "Train with MMEngine's Runner and its default hooks.",
            )
        if number.by_epoch and number.last_end > 1 and hub.get_info('max_epochs', None) == 1:
            raise ConfigError(
                number.key,
                'counts epochs, and the run has one, as every run by iterations',
                'Write by_epoch=False, and begin and end in iterations.',
                found=number.last_end,
            )
        number.set_time(int(iteration), int(epoch))
