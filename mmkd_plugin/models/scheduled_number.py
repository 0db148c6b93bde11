"""Weights and temperatures that change during training."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import MessageHub

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.schedules import Schedule
from mmkd_plugin.registry import build_part


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
        >>> from mmkd_plugin.models.schedules import LinearSchedule
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

    def __lt__(self, other: Any) -> Any:
        return self._value < other

    def __le__(self, other: Any) -> Any:
        return self._value <= other

    def __gt__(self, other: Any) -> Any:
        return self._value > other

    def __ge__(self, other: Any) -> Any:
        return self._value >= other

    def __eq__(self, other: object) -> bool:
        return self._value == other

    __hash__ = None  # type: ignore[assignment]

    def __mul__(self, other: Any) -> Any:
        return self._value * other

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._value / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self._value

    def __pow__(self, other: Any) -> Any:
        return self._value**other

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
