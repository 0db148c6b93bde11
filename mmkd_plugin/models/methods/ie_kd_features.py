"""The features that IE-KD compares: factors, attention, or maps before their ReLU."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mmkd_plugin.adapters.probe import TeacherProbe
from mmkd_plugin.errors import construct, mapping
from mmkd_plugin.models.connectors import FactorEncoder, OverhaulConnector
from mmkd_plugin.models.losses import factor_distance, overhaul_loss
from mmkd_plugin.models.losses.attention_transfer import attention_map
from mmkd_plugin.models.methods.attention_transfer import ATTENTION, teacher_attention
from mmkd_plugin.models.methods.factor_targets import FactorTargets
from mmkd_plugin.models.methods.overhaul import Margins, level_divisor
from mmkd_plugin.models.methods.paired import Pair

#: The two parts of the student's map.
PARTS = ('inherit', 'explore')


class FeatureTransform(nn.Module, ABC):
    """Connectors of one kind of feature for all pairs, and for the parts that have a weight."""

    #: The default distance of each part.
    distances: ClassVar[Mapping[str, str]]

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict()

    @property
    def auxiliary(self) -> nn.Module | None:
        """Auxiliary modules; see :attr:`Method.auxiliary`."""
        return None

    @abstractmethod
    def build(
        self,
        parts: Mapping[str, Sequence[int]],
        targets: Sequence[int],
        teachers: Sequence[TeacherProbe],
    ) -> None:
        """Build the connectors.

        Args:
            parts: Channels of each pair, for each part that has a weight.
            targets: Channels of each pair's map of the teacher.
            teachers: Probes of all teachers.
        """

    def encode_student(self, part: str, number: int, values: Tensor) -> Tensor:
        """Encode a part (N, C_part, H, W) of the student's map of a pair."""
        encoders = self.encoders[part]
        assert isinstance(encoders, nn.ModuleList)
        encoded: Tensor = encoders[number](values)
        return encoded

    def name(self, number: int) -> str:
        """Return a name of what is read of the teacher's map of a pair; '' if it is all of it."""
        return ''

    @abstractmethod
    def encode_teacher(self, number: int, values: Tensor) -> Tensor:
        """Encode the teacher's map (N, C, H, W) of a pair, without gradient."""

    def inheritance(
        self, number: int, own: Tensor, target: Tensor, distance: str, reduction: str
    ) -> Tensor:
        """Return the loss of the part that inherits."""
        return factor_distance(own, target, distance, reduction)


class FactorTransform(FeatureTransform):
    """IE-FT: an encoder for each part, and the factor of the teacher's map by a paraphraser."""

    distances: ClassVar[Mapping[str, str]] = {'inherit': 'l1', 'explore': 'l1'}

    def __init__(
        self,
        pairs: Sequence[Pair],
        paraphraser: Mapping[str, Any] | None = None,
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.targets = FactorTargets(pairs, paraphraser)
        self._encoder = mapping('encoder', encoder, "dict(norm='bn')")

    @property
    def auxiliary(self) -> nn.Module | None:
        return self.targets.auxiliary

    def build(
        self,
        parts: Mapping[str, Sequence[int]],
        targets: Sequence[int],
        teachers: Sequence[TeacherProbe],
    ) -> None:
        factors = self.targets.build(targets, teachers)
        for part, channels in parts.items():
            encoders = nn.ModuleList()
            for source, factor in zip(channels, factors, strict=True):
                arguments = dict(in_channels=source, factor_channels=factor, **self._encoder)
                encoders.append(construct('encoder', FactorEncoder, arguments))
            self.encoders[part] = encoders

    def encode_teacher(self, number: int, values: Tensor) -> Tensor:
        return self.targets.factor(number, values)

    def name(self, number: int) -> str:
        return self.targets.name(number)


class AttentionTransform(FeatureTransform):
    """IE-AT: the mean over channels of the squared map.

    The squared distance of the normalised attention is attention transfer's loss.
    """

    distances: ClassVar[Mapping[str, str]] = {'inherit': 'l2', 'explore': 'l2'}

    def build(
        self,
        parts: Mapping[str, Sequence[int]],
        targets: Sequence[int],
        teachers: Sequence[TeacherProbe],
    ) -> None:
        """Attention has no connector."""

    def encode_student(self, part: str, number: int, values: Tensor) -> Tensor:
        return attention_map(values)

    def encode_teacher(self, number: int, values: Tensor) -> Tensor:
        return teacher_attention(values)

    def name(self, number: int) -> str:
        return ATTENTION


class OverhaulTransform(FeatureTransform):
    """IE-OD: a 1x1 convolution for each part, and the teacher's map before its ReLU.

    The part that inherits has overhaul's own loss. Its negative has no bound, so the part that
    explores has the same partial distance of normalised maps.
    """

    distances: ClassVar[Mapping[str, str]] = {'inherit': 'overhaul', 'explore': 'partial_l2'}

    def __init__(self, pairs: Sequence[Pair]) -> None:
        super().__init__()
        self._levels = len(pairs)
        self.margins = Margins(pairs)

    def build(
        self,
        parts: Mapping[str, Sequence[int]],
        targets: Sequence[int],
        teachers: Sequence[TeacherProbe],
    ) -> None:
        self.margins.build(targets, teachers)
        for part, channels in parts.items():
            both = zip(channels, targets, strict=True)
            self.encoders[part] = nn.ModuleList(OverhaulConnector(*pair) for pair in both)

    def encode_teacher(self, number: int, values: Tensor) -> Tensor:
        return self.margins.target(number, values)

    def inheritance(
        self, number: int, own: Tensor, target: Tensor, distance: str, reduction: str
    ) -> Tensor:
        if distance != 'overhaul':
            return super().inheritance(number, own, target, distance, reduction)
        loss = overhaul_loss(own, target, self.margins.of(number))
        return loss / level_divisor(number, self._levels)
