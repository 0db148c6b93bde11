"""Which group of student layers each teacher supervises."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class GroupMapping(nn.Module):
    """One-to-one from T teachers to the T highest layer groups; the measured order of the teachers is saved with the run.

    Args:
        mapping: ``'best_high'``, ``'best_low'``, ``'random'``, or a group index for each teacher.
        num_groups: How many groups the student has, low to high.
        seed: Of ``'random'``.
    """

    order: Tensor

    def __init__(self, mapping: str | Sequence[int], num_groups: int, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(mapping, (list, tuple)) and mapping not in (
            'best_high',
            'best_low',
            'random',
        ):
            raise ValueError(
                f"mapping: expected 'best_high', 'best_low', 'random' or a list of group indices, got {mapping!r}"
            )
        self.mapping = mapping
        self.num_groups = num_groups
        self.seed = seed
        self._groups: tuple[int, ...] | None = (
            None  # derived from `order`; spares a device-to-host copy every step
        )

    @property
    def needs_order(self) -> bool:
        """Whether the mapping waits for measured accuracies."""
        return self.mapping in ('best_high', 'best_low')

    def bind(self, num_teachers: int) -> None:
        """Learn how many teachers there are.

        Raises:
            ValueError: If there are more teachers than groups, or explicit indices are not one-to-one.
        """
        if num_teachers > self.num_groups:
            raise ValueError(
                f'student_groups: expected at least one group for each of {num_teachers} teachers, got {self.num_groups} groups'
            )
        if isinstance(self.mapping, (list, tuple)):
            valid = len(self.mapping) == num_teachers == len(set(self.mapping))
            if not valid or not all(
                isinstance(g, int) and 0 <= g < self.num_groups for g in self.mapping
            ):
                raise ValueError(
                    f'mapping: expected {num_teachers} different indices below {self.num_groups}, got {list(self.mapping)}'
                )
        # A single teacher is the best one without measurement.
        known = (
            torch.zeros(1, dtype=torch.long)
            if num_teachers == 1
            else torch.full((num_teachers,), -1)
        )
        self.register_buffer('order', known)

    def possible_groups(self, teacher: int) -> tuple[int, ...]:
        """The groups that may become this teacher's."""
        if not self.needs_order:
            return (self.groups()[teacher],)
        return tuple(range(self.num_groups - len(self.order), self.num_groups))

    def set_order(self, order: Sequence[int]) -> None:
        """Take the teachers' indices, best first.

        Raises:
            ValueError: If it is no permutation of the teachers.
        """
        if sorted(order) != list(range(len(self.order))):
            raise ValueError(
                f'order: expected a permutation of {len(self.order)} teachers, got {list(order)}'
            )
        self.order.copy_(torch.tensor(list(order)))
        self._groups = None

    def groups(self) -> tuple[int, ...]:
        """The group of each teacher.

        Raises:
            ValueError: If it depends on an order that was never measured.
        """
        if self._groups is None:
            self._groups = self._derive()
        return self._groups

    def _derive(self) -> tuple[int, ...]:
        count = len(self.order)
        if isinstance(self.mapping, (list, tuple)):
            return tuple(self.mapping)
        if self.mapping == 'random':
            shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
            return tuple((self.num_groups - count + shuffled).tolist())
        order = self.order.tolist()
        if -1 in order:
            raise ValueError(
                f"mapping: expected measured teachers for {self.mapping!r}: add custom_hooks=[dict(type='mmkd_plugin.EvaluateTeachers')], "
                'or state the group of each teacher'
            )
        groups = [0] * count
        for rank, teacher in enumerate(order):
            from_top = rank if self.mapping == 'best_high' else count - 1 - rank
            groups[teacher] = self.num_groups - 1 - from_top
        return tuple(groups)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._groups = None
