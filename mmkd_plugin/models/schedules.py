"""Schedules: numbers as functions of the epoch or of the iteration."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

from mmkd_plugin.errors import ConfigError, non_negative_number
from mmkd_plugin.registry import MODELS


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
