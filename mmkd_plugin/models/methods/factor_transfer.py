"""Factor transfer."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.errors import config_key, non_negative_number
from mmkd_plugin.models.connectors import FactorEncoder
from mmkd_plugin.models.losses import factor_transfer_loss
from mmkd_plugin.models.methods.factor_targets import FactorTargets
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.outputs import Knowledge
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class FactorTransfer(PairedMethod):
    r"""Translate the student's whole map into the factors that a paraphraser makes of the teacher's.

    .. math:: L = w \sum_p \mathrm{mean}\,\left| F_S^p / \lVert F_S^p \rVert_2 - F_T^p / \lVert F_T^p \rVert_2 \right|

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`; ``checkpoint`` is that of the paraphraser, which a
            ``ParaphraserTrainer`` wrote.
        loss_weight: :math:`w`.
        encoder: Changes to the translator, a :class:`~mmkd_plugin.models.connectors.FactorEncoder`; by default it has no
            normalisation, as its authors' code.
        paraphraser: Of paraphrasers that learn along with the networks (mutual learning), where pairs have no checkpoint.

    Raises:
        ValueError: If a pair lacks a tap, a tap gives no map, or a paraphraser was not made for it.

    Source: Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018, eq. 3; w from its code.
    """

    pair_keys = frozenset({'checkpoint'})

    def __init__(
        self,
        pairs: Sequence[Mapping[str, Any]],
        loss_weight: float = 500.0,
        encoder: Mapping[str, Any] | None = None,
        paraphraser: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(pairs)
        self.loss_weight = non_negative_number('loss_weight', loss_weight)
        self.targets = FactorTargets(self.pairs, paraphraser)
        self._encoder = {'norm': None, **(encoder or {})}
        self.encoders = nn.ModuleList()

    @property
    def active(self) -> bool:
        return self.loss_weight > 0

    @property
    def apart(self) -> nn.Module | None:
        return self.targets.apart

    @property
    def files_of_teachers(self) -> Sequence[tuple[int, bytes]]:
        return self.targets.files_of_teachers

    def bind(self, student: Knowledge, teachers: Sequence[Knowledge]) -> None:
        channels = list(self.channels(student, teachers))
        factors = self.targets.bind([target for _, target in channels])
        for (source, _), factor_channels in zip(channels, factors, strict=True):
            with config_key('encoder'):
                self.encoders.append(FactorEncoder(source, factor_channels, **self._encoder))

    def forward(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        losses = []
        for number, (source, target) in enumerate(self.maps(student, teachers)):
            losses.append(
                factor_transfer_loss(
                    self.encoders[number](source), self.targets.factor(number, target)
                )
            )
        return {'loss_factor': self.loss_weight * sum(losses[1:], losses[0])}
