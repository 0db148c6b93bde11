"""The two parts that IE-KD makes of a student's map."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmkd_plugin.models.connectors import ChannelSplit
from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.models.methods import IEKD

#: The paper's names of the part that inherits and the one that explores.
NAMES = ('f_inh', 'f_exp')


@dataclass(frozen=True, eq=False)
class Part:
    """Some channels of the student's map at a tap.

    Args:
        name: For pictures.
        tap: Of the student.
        index: Of the channels, (C_part,).
        channels: Of the whole map.
        teacher: The number of the teacher that it was compared with, and the tap there.
    """

    name: str
    tap: str
    index: Tensor
    channels: int
    teacher: tuple[int, str]

    def of(self, values: Tensor) -> Tensor:
        """Of a map (N, C, H, W) these channels, (N, C_part, H, W)."""
        return values.index_select(1, self.index.to(values.device))

    def mask(self, values: Tensor) -> Tensor:
        """1 where a map (N, C, H, W) has these channels, 0 elsewhere."""
        return torch.zeros_like(values).index_fill_(1, self.index.to(values.device), 1.0)


def parts_of(distiller: Distiller) -> list[Part]:
    """Both parts of every pair of every IE-KD method; names tell the taps if there are several. Empty without IE-KD."""
    found = []
    for method in distiller.methods.values():
        if isinstance(method, IEKD):
            for pair, split in zip(method.pairs, method.splits, strict=True):
                assert isinstance(split, ChannelSplit)
                for name, buffer in zip(NAMES, ('inherit_index', 'explore_index'), strict=True):
                    index = split.get_buffer(buffer).detach().cpu()
                    teacher = (pair.get('index', 0), pair['teacher'])
                    found.append(Part(name, pair['student'], index, split.channels, teacher))
    return _named(found)


def _named(parts: Sequence[Part]) -> list[Part]:
    if len(parts) <= len(NAMES):
        return list(parts)
    taps = [f'{part.name} of {part.tap.removeprefix("backbone.")}' for part in parts]
    numbers = [taps[:place].count(name) for place, name in enumerate(taps)]
    return [
        Part(
            f'{name} ({number + 1})' if taps.count(name) > 1 else name,
            part.tap,
            part.index,
            part.channels,
            part.teacher,
        )
        for part, name, number in zip(parts, taps, numbers, strict=True)
    ]
