"""What IE-KD compares of a student's part and of its teacher's map: factors, attention, or maps before their ReLU."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mmkd_plugin.errors import config_key
from mmkd_plugin.models.connectors import FactorEncoder, OverhaulConnector
from mmkd_plugin.models.losses import inheritance_loss, overhaul_loss
from mmkd_plugin.models.methods.factor_targets import FactorTargets
from mmkd_plugin.models.methods.overhaul import Margins, level_divisor, norms_of, require_norms
from mmkd_plugin.outputs import Knowledge

#: The two parts of the student's map.
PARTS = ('inherit', 'explore')
Pairs = Sequence[Mapping[str, Any]]


class Compared(nn.Module, ABC):
    """The connectors of one kind of knowledge, for all pairs; only for the parts that have a weight."""

    #: The distance by which each part is measured unless the config says another.
    distances: ClassVar[Mapping[str, str]]

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict()

    @abstractmethod
    def bind(
        self,
        teachers: Sequence[Knowledge],
        parts: Mapping[str, Sequence[int]],
        targets: Sequence[int],
    ) -> None:
        """Build, for each pair's channels: of the parts that have a weight, and of the teachers' maps."""

    def of_part(self, part: str, number: int, values: Tensor) -> Tensor:
        """Of the pair ``number`` what is compared of a part (N, C_part, H, W)."""
        encoders = self.encoders[part]
        assert isinstance(encoders, nn.ModuleList)
        encoded: Tensor = encoders[number](values)
        return encoded

    @abstractmethod
    def of_teacher(self, number: int, values: Tensor) -> Tensor:
        """Of the pair ``number`` what is compared of the teacher's map (N, C, H, W), without gradient."""

    def inheritance(
        self, number: int, own: Tensor, target: Tensor, distance: str, reduction: str
    ) -> Tensor:
        """The loss of the part that inherits."""
        return inheritance_loss(own, target, distance, reduction)


class ComparedFactors(Compared):
    """IE-FT: an encoder for each part against the factor that a paraphraser makes of the teacher's map."""

    distances: ClassVar[Mapping[str, str]] = {'inherit': 'l1', 'explore': 'l1'}

    def __init__(
        self,
        pairs: Pairs,
        paraphraser: Mapping[str, Any] | None = None,
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.targets = FactorTargets(pairs, paraphraser)
        self._encoder = dict(encoder or {})

    def bind(
        self,
        teachers: Sequence[Knowledge],
        parts: Mapping[str, Sequence[int]],
        targets: Sequence[int],
    ) -> None:
        factors = self.targets.bind(targets)
        for part, channels in parts.items():
            both = zip(channels, factors, strict=True)
            with config_key('encoder'):
                self.encoders[part] = nn.ModuleList(
                    FactorEncoder(*pair, **self._encoder) for pair in both
                )

    def of_teacher(self, number: int, values: Tensor) -> Tensor:
        return self.targets.factor(number, values)


class ComparedAttention(Compared):
    """IE-AT: the mean over channels of the squared map. Normalised, its squared distance is attention transfer's loss."""

    distances: ClassVar[Mapping[str, str]] = {'inherit': 'l2', 'explore': 'l2'}

    def bind(
        self,
        teachers: Sequence[Knowledge],
        parts: Mapping[str, Sequence[int]],
        targets: Sequence[int],
    ) -> None:
        """Attention has no connector."""

    def of_part(self, part: str, number: int, values: Tensor) -> Tensor:
        return values.float().square().mean(dim=1, keepdim=True)

    def of_teacher(self, number: int, values: Tensor) -> Tensor:
        return values.detach().float().square().mean(dim=1, keepdim=True)


class ComparedOverhaul(Compared):
    """IE-OD: a 1x1 convolution for each part against the teacher's map before its ReLU, not below its margin.

    The part that inherits has overhaul's own loss. Its negative has no bound, so the part that explores is measured by the same
    partial distance of normalised maps.
    """

    distances: ClassVar[Mapping[str, str]] = {'inherit': 'overhaul', 'explore': 'partial_l2'}

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        require_norms(pairs)
        self._pairs = pairs
        self.margins = Margins(pairs)

    def norms_of_teacher(self, index: int) -> tuple[str, ...]:
        """See :meth:`Method.norms_of_teacher`."""
        return norms_of(self._pairs, index)

    def bind(
        self,
        teachers: Sequence[Knowledge],
        parts: Mapping[str, Sequence[int]],
        targets: Sequence[int],
    ) -> None:
        self.margins.bind(teachers, targets)
        for part, channels in parts.items():
            both = zip(channels, targets, strict=True)
            self.encoders[part] = nn.ModuleList(OverhaulConnector(*pair) for pair in both)

    def of_teacher(self, number: int, values: Tensor) -> Tensor:
        return self.margins.target(number, values)

    def inheritance(
        self, number: int, own: Tensor, target: Tensor, distance: str, reduction: str
    ) -> Tensor:
        if distance != 'overhaul':
            return super().inheritance(number, own, target, distance, reduction)
        loss = overhaul_loss(own, target, self.margins.of(number))
        return loss / level_divisor(number, len(self._pairs))
