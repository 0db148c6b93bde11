"""Overhaul of feature distillation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.probe import TeacherProbe
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.connectors import OverhaulConnector
from mmkd_plugin.models.losses import overhaul_loss, overhaul_margin
from mmkd_plugin.models.losses.functional import at_least_float32
from mmkd_plugin.models.methods.paired import Pair, PairedMethod
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class Overhaul(PairedMethod):
    r"""Match the teacher's maps before their ReLU, down to a margin below zero.

    .. math:: L = w \sum_{l=0}^{L-1} \frac{1}{2^{L-l-1}} \cdot \frac{1}{1000 N}
              \sum d_p(r_l(s_l), \max(t_l, m_l))

    with a 1x1 convolution and BatchNorm :math:`r_l`, the partial L2 distance :math:`d_p`, and a
    margin :math:`m` for every channel: the expectation of the negative outputs of the teacher's
    BatchNorm before the ReLU.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`, low levels first. The
            taps are maps before a ReLU, such as ``'backbone.layer3.2.relu2:input'``; ``norm`` is
            the path of the teacher's BatchNorm layer before it.
        loss_weight: :math:`w`.

    Raises:
        ConfigError: If a pair lacks a tap or its ``norm``, or the norm has other channels than the
            teacher's map.

    Example:
        >>> from mmkd_plugin.adapters import Probe
        >>> from mmkd_plugin.outputs import NetworkOutput
        >>> network = nn.ModuleDict({'bn': nn.BatchNorm2d(32)})
        >>> student = NetworkOutput(features={'relu:input': torch.rand(2, 8, 4, 4)})
        >>> teacher = NetworkOutput(features={'relu:input': torch.rand(2, 32, 4, 4)})
        >>> method = Overhaul([dict(student='relu:input', teacher='relu:input', norm='bn')])
        >>> probe = TeacherProbe('teacher', teacher, network, sha256='0' * 64)
        >>> method.build(Probe('student', student), [probe])
        >>> round(method.margins.of(0)[0].item(), 4)  # of a standard normal: -sqrt(2 / pi)
        -0.7979

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, eq. 2-4; the
        factors of the levels are those of its code.
    """

    loss_name = 'loss_overhaul'
    pair_keys = ('norm',)

    def __init__(self, pairs: Sequence[Mapping[str, Any]] | str, loss_weight: float = 1.0) -> None:
        super().__init__(pairs, loss_weight=loss_weight)
        self.connectors = nn.ModuleList()
        self.margins = Margins(self.pairs)

    def build_connectors(
        self, channels: Sequence[tuple[int, int]], teachers: Sequence[TeacherProbe]
    ) -> None:
        self.margins.build([target for _, target in channels], teachers)
        self.connectors.extend(OverhaulConnector(*pair) for pair in channels)

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        loss = overhaul_loss(self.connectors[number](student), teacher, self.margins.of(number))
        return loss / level_divisor(number, len(self.pairs))


def level_divisor(level: int, levels: int) -> float:
    """Return the divisor of a level's loss in the authors' code.

    The deepest of ``levels`` is divided by 1000, each one before by twice as much as the next.

    Example:
        >>> [level_divisor(level, 3) for level in range(3)]
        [4000.0, 2000.0, 1000.0]
    """
    return 1000.0 * 2 ** (levels - level - 1)


class Margins(nn.Module):
    """The margin of each pair, (C,), as buffers that are saved with the run.

    Args:
        pairs: Pairs of the method.

    Raises:
        ConfigError: If a pair has no ``norm``.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        super().__init__()
        self._pairs = pairs
        if not pairs:
            raise ConfigError(
                'pairs',
                'must name the taps before a ReLU, and the norm before it',
                "Write dict(student=…, teacher=…, norm='backbone.layer3.2.bn2') each.",
            )
        for number, pair in enumerate(pairs):
            if not isinstance(pair.norm, str):
                raise ConfigError(
                    f'pairs[{number}].norm',
                    'must be the path of the teacher’s BatchNorm layer before the ReLU',
                    "For example 'backbone.layer3.2.bn2'.",
                    found=pair.norm,
                )

    def build(self, channels: Sequence[int], teachers: Sequence[TeacherProbe]) -> None:
        """Compute the margins.

        Args:
            channels: Channels of each pair's map of the teacher.
            teachers: Probes of all teachers.

        Raises:
            ConfigError: If a layer is no BatchNorm or has other channels, or its network still
                learns.
        """
        for number, (pair, count) in enumerate(zip(self._pairs, channels, strict=True)):
            key = f'pairs[{number}].norm'
            scale, shift = teachers[pair.index].norm(str(pair.norm), key)
            if len(scale) != count:
                raise ConfigError(
                    key, f'must have the {count} channels of {pair.teacher!r}', found=len(scale)
                )
            margin = overhaul_margin(scale.detach(), shift.detach())
            self.register_buffer(f'margin{number}', margin)

    def of(self, number: int) -> Tensor:
        """Return the margin of a pair, (C,)."""
        return self.get_buffer(f'margin{number}')

    def target(self, number: int, feature: Tensor) -> Tensor:
        """Return the teacher's map (N, C, H, W) cut off at the margin."""
        margin = self.of(number).view(1, -1, 1, 1)
        return torch.maximum(*at_least_float32(feature.detach(), margin))
