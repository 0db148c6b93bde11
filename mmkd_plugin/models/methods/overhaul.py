"""Overhaul of feature distillation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.models.connectors import OverhaulConnector
from mmkd_plugin.models.losses import overhaul_loss, overhaul_margin
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.outputs import Knowledge
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class Overhaul(PairedMethod):
    r"""Follow the teacher's maps before their ReLU where they are positive, and below its margin where they are not.

    .. math:: L = w \sum_{l=0}^{L-1} \frac{1}{2^{L-l-1}} \cdot \frac{1}{1000 N} \sum d_p(r_l(s_l), \max(t_l, m_l))

    with a 1x1 convolution and BatchNorm :math:`r_l`, the partial L2 distance :math:`d_p`, and for every channel the margin
    :math:`m`: what the teacher's BatchNorm before the ReLU gives on average where it gives less than 0.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`, low levels first; the taps are maps before a ReLU, such as
            ``'backbone.layer3.2.relu2:input'``; ``norm`` is the path of the teacher's BatchNorm layer before it.
        loss_weight: :math:`w`.

    Raises:
        ValueError: If a pair lacks a tap or its ``norm``, or the norm has other channels than the teacher's map.

    Source: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, eq. 2-4; the factors of levels from its code.
    """

    pair_keys = frozenset({'norm'})

    def __init__(self, pairs: Sequence[Mapping[str, Any]], loss_weight: float = 1.0) -> None:
        super().__init__(pairs)
        self.loss_weight = non_negative_number('loss_weight', loss_weight)
        require_norms(self.pairs)
        self.connectors = nn.ModuleList()
        self.margins = Margins(self.pairs)

    @property
    def active(self) -> bool:
        return self.loss_weight > 0

    def norms_of_teacher(self, index: int, count: int) -> tuple[str, ...]:
        return norms_of(self.pairs, index)

    def bind(self, student: Knowledge, teachers: Sequence[Knowledge]) -> None:
        channels = list(self.channels(student, teachers))
        self.margins.bind(teachers, [target for _, target in channels])
        for source, target in channels:
            self.connectors.append(OverhaulConnector(source, target))

    def forward(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        levels = len(self.pairs)
        losses = []
        for level, (source, target) in enumerate(self.maps(student, teachers)):
            loss = overhaul_loss(self.connectors[level](source), target, self.margins.of(level))
            losses.append(loss / level_divisor(level, levels))
        return {'loss_overhaul': self.loss_weight * sum(losses[1:], losses[0])}


def level_divisor(level: int, levels: int) -> float:
    """What the authors' code divides a level's loss by: the deepest of ``levels`` by 1000, each one before by twice the next."""
    return 1000.0 * 2 ** (levels - level - 1)


class Margins(nn.Module):
    """Each pair's margin, (C,), from its teacher's normalisation layer; a buffer, saved with the run.

    Args:
        pairs: Of the method, with ``norm``.
    """

    def __init__(self, pairs: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self._pairs = pairs

    def bind(self, teachers: Sequence[Knowledge], channels: Sequence[int]) -> None:
        """Compute them.

        Raises:
            ValueError: If the layer was not seen, or has other channels than the teacher's map.
        """
        for number, (pair, count) in enumerate(zip(self._pairs, channels, strict=True)):
            norms = teachers[pair.get('index', 0)].norms
            if pair['norm'] not in norms:
                raise ValueError(
                    f'pairs[{number}].norm: expected a frozen teacher, whose margin stays as it is, got a network that learns'
                )
            scale, shift = norms[pair['norm']]
            if len(scale) != count:
                raise ValueError(
                    f'pairs[{number}].norm: expected the {count} channels of {pair["teacher"]!r}, got {len(scale)}'
                )
            self.register_buffer(f'margin{number}', overhaul_margin(scale.detach(), shift.detach()))

    def of(self, number: int) -> Tensor:
        """The margin of the pair ``number``, (C,)."""
        return self.get_buffer(f'margin{number}')

    def target(self, number: int, feature: Tensor) -> Tensor:
        """The map (N, C, H, W), not below the margin."""
        return torch.maximum(feature.detach().float(), self.of(number).view(1, -1, 1, 1))


def require_norms(pairs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse pairs without the path of the teacher's normalisation layer.

    Raises:
        ValueError: If one lacks it.
    """
    for number, pair in enumerate(pairs):
        if not isinstance(pair.get('norm'), str):
            raise ValueError(
                f"pairs[{number}].norm: expected the path of the teacher's BatchNorm layer before the ReLU, such as "
                f"'backbone.layer3.2.bn2', got {pair.get('norm')!r}"
            )


def norms_of(pairs: Sequence[Mapping[str, Any]], index: int) -> tuple[str, ...]:
    """The normalisation layers of teacher ``index`` that pairs name."""
    return tuple(pair['norm'] for pair in pairs if pair.get('index', 0) == index and 'norm' in pair)
