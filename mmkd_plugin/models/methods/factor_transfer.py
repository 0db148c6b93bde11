"""Factor transfer."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.probe import TeacherProbe
from mmkd_plugin.errors import construct, mapping
from mmkd_plugin.models.connectors import FactorEncoder
from mmkd_plugin.models.losses import factor_distance
from mmkd_plugin.models.methods.factor_targets import FactorTargets
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class FactorTransfer(PairedMethod):
    r"""Translate the student's whole map into the teacher's factors, which a paraphraser extracts.

    .. math:: L = w \sum_p \mathrm{mean}\,
              \left| F_S^p / \lVert F_S^p \rVert_2 - F_T^p / \lVert F_T^p \rVert_2 \right|

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`; ``checkpoint`` is that
            of the paraphraser, which ``ParaphraserTrainer`` wrote.
        loss_weight: :math:`w`.
        encoder: Changes to the translator, a
            :class:`~mmkd_plugin.models.connectors.FactorEncoder`. By default it has no
            normalisation, as in its authors' code.
        paraphraser: Config of paraphrasers that learn together with the networks in mutual
            learning, where pairs have no checkpoint.

    Raises:
        ConfigError: If a pair lacks a tap, a tap records no map, or a paraphraser does not fit.

    Example:
        Between peers, whose paraphrasers learn together with them:

        >>> import torch
        >>> from mmkd_plugin.adapters import Probe
        >>> from mmkd_plugin.outputs import NetworkOutput
        >>> student = NetworkOutput(features={'layer3': torch.rand(2, 8, 4, 4)})
        >>> peer = NetworkOutput(features={'layer3': torch.rand(2, 32, 4, 4)})
        >>> method = FactorTransfer([dict(student='layer3', teacher='layer3')])
        >>> method.build(Probe('a', student), [TeacherProbe('b', peer, nn.Identity())])
        >>> list(method(student, [peer], None)), list(method.auxiliary([peer]))
        (['loss_factor'], ['loss_rec', 'relative_error'])

    Reference:
        Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS
        2018, eq. 3; :math:`w` is that of its code.
    """

    loss_name = 'loss_factor'
    pair_keys = ('checkpoint',)

    def __init__(
        self,
        pairs: Sequence[Mapping[str, Any]] | str,
        loss_weight: float = 500.0,
        encoder: Mapping[str, Any] | None = None,
        paraphraser: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(pairs, loss_weight=loss_weight)
        self.targets = FactorTargets(self.pairs, paraphraser)
        self._encoder = {'norm': None, **mapping('encoder', encoder, "dict(norm='bn')")}
        self.encoders = nn.ModuleList()

    @property
    def auxiliary(self) -> nn.Module | None:
        return self.targets.auxiliary

    def build_connectors(
        self, channels: Sequence[tuple[int, int]], teachers: Sequence[TeacherProbe]
    ) -> None:
        factors = self.targets.build([target for _, target in channels], teachers)
        for (source, _), factor_channels in zip(channels, factors, strict=True):
            arguments = dict(in_channels=source, factor_channels=factor_channels, **self._encoder)
            self.encoders.append(construct('encoder', FactorEncoder, arguments))

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        return factor_distance(self.encoders[number](student), teacher)

    def reduce(self, number: int, teacher: Tensor) -> Tensor:
        return self.targets.factor(number, teacher)

    def reduction_name(self, number: int) -> str:
        return self.targets.name(number)
