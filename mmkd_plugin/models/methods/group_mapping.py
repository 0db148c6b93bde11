"""The group of student layers that each teacher supervises."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError

_BY_QUALITY = ('best_high', 'best_low')


class GroupMapping(nn.Module):
    """Map T teachers one-to-one to the T highest layer groups.

    The measured order of the teachers is saved with the run.

    Args:
        mapping: ``'best_high'``, ``'best_low'``, ``'random'``, or a group index for each teacher.
        num_groups: Number of groups of the student, low to high.
        seed: Seed of ``'random'``.

    Raises:
        ConfigError: If the mapping is none of these.

    Example:
        >>> mapping = GroupMapping('best_high', num_groups=3)
        >>> mapping.build(num_teachers=2)
        >>> mapping.set_order([1, 0])  # teacher 1 is the better one
        >>> mapping.groups()
        (1, 2)
    """

    order: Tensor

    def __init__(self, mapping: str | Sequence[int], num_groups: int, seed: int = 0) -> None:
        super().__init__()
        words = (*_BY_QUALITY, 'random')
        if not isinstance(mapping, (list, tuple)) and mapping not in words:
            listed = ', '.join(map(repr, words))
            raise ConfigError(
                'mapping', f'must be one of {listed}, or a list of group indices', found=mapping
            )
        self.mapping = mapping
        self.num_groups = num_groups
        self.seed = seed
        # Derived from `order`; spares a device-to-host copy every step.
        self._groups: tuple[int, ...] | None = None
        self.register_load_state_dict_pre_hook(_forget)  # type: ignore[no-untyped-call]

    @property
    def needs_order(self) -> bool:
        """Whether the mapping depends on measured scores."""
        return self.mapping in _BY_QUALITY

    def build(self, num_teachers: int) -> None:
        """Set the number of teachers.

        Raises:
            ConfigError: If there are more teachers than groups, or indices are not one-to-one.
        """
        if num_teachers > self.num_groups:
            raise ConfigError(
                'student_groups',
                f'must have at least one group for each of {num_teachers} teachers',
                found=self.num_groups,
            )
        if isinstance(self.mapping, (list, tuple)):
            valid = len(self.mapping) == num_teachers == len(set(self.mapping))
            inside = (isinstance(g, int) and 0 <= g < self.num_groups for g in self.mapping)
            if not valid or not all(inside):
                raise ConfigError(
                    'mapping',
                    f'must be {num_teachers} different indices below {self.num_groups}',
                    found=list(self.mapping),
                )
        # A single teacher is the best one without measurement.
        unknown = torch.full((num_teachers,), -1)
        known = torch.zeros(1, dtype=torch.long)
        self.register_buffer('order', known if num_teachers == 1 else unknown)

    def possible_groups(self, teacher: int) -> tuple[int, ...]:
        """Return the groups that this teacher may get."""
        if not self.needs_order:
            return (self.groups()[teacher],)
        return tuple(range(self.num_groups - len(self.order), self.num_groups))

    def set_order(self, order: Sequence[int]) -> None:
        """Set the teachers' indices, best first.

        Raises:
            ValueError: If they are no permutation of the teachers.
        """
        if sorted(order) != list(range(len(self.order))):
            raise ValueError(f'{list(order)} is no permutation of {len(self.order)} teachers')
        self.order.copy_(torch.tensor(list(order)))
        self._groups = None

    def groups(self) -> tuple[int, ...]:
        """Return the group of each teacher.

        Raises:
            ConfigError: If the mapping depends on scores that were not measured.
        """
        if self._groups is None:
            self._groups = self._derive()
        return self._groups

    def _derive(self) -> tuple[int, ...]:
        count = len(self.order)
        if isinstance(self.mapping, (list, tuple)):
            return tuple(self.mapping)
        if self.mapping == 'random':
            generator = torch.Generator().manual_seed(self.seed)
            shuffled = torch.randperm(count, generator=generator)
            return tuple((self.num_groups - count + shuffled).tolist())
        order = self.order.tolist()
        if -1 in order:
            raise ConfigError(
                'mapping',
                'needs measured teachers',
                "Add custom_hooks=[dict(type='mmkd_plugin.EvaluateTeachers')], or give the group "
                'of each teacher.',
                found=self.mapping,
            )
        groups = [0] * count
        for rank, teacher in enumerate(order):
            from_top = rank if self.mapping == 'best_high' else count - 1 - rank
            groups[teacher] = self.num_groups - 1 - from_top
        return tuple(groups)


def _forget(module: nn.Module, *_: Any) -> None:
    """Derive the groups anew after a checkpoint is loaded."""
    if isinstance(module, GroupMapping):
        module._groups = None
