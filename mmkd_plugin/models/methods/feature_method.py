"""Any registered loss between feature maps, as a method."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.probe import TeacherProbe
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.registry import MODELS, build_part


@MODELS.register_module()
class FeatureMethod(PairedMethod):
    r"""Apply a loss to pairs of feature maps, behind a connector if the config names one.

    .. math:: L = w \sum_p \ell(F_p(v_p), u_p)

    Args:
        loss: Config of the loss :math:`\ell`, such as ``dict(type='HintLoss')``: a registered
            module that is called with the tensors of the student and of the teacher. Every loss
            that :func:`~mmkd_plugin.models.losses.loss_module` registers for maps will do.
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`.
        connector: Config of :math:`F_p`, such as ``dict(type='HintRegressor')``, built for the
            channels of each pair; None compares the maps as they are.
        loss_weight: :math:`w`.

    Raises:
        ConfigError: If the loss or the connector is unknown or refuses its arguments, or a pair
            does not fit.

    Example:
        In a config, a loss ``MyLoss`` of your own project::

            methods=dict(
                mine=dict(
                    type='FeatureMethod',
                    loss=dict(type='MyLoss', loss_weight=2.0),
                    connector=dict(type='HintRegressor'),
                    pairs=[dict(student='backbone.layer3', teacher='backbone.layer3')],
                )
            )
    """

    loss_name = 'loss_feature'
    maps_only = False

    def __init__(
        self,
        loss: Mapping[str, Any],
        pairs: Sequence[Mapping[str, Any]],
        connector: Mapping[str, Any] | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(pairs, loss_weight=loss_weight)
        self.loss = build_part(loss, nn.Module, 'loss')
        self._connector = connector
        self.connectors = nn.ModuleList()

    @property
    def active(self) -> bool:
        return super().active and getattr(self.loss, 'loss_weight', 1.0) > 0

    def build_connectors(
        self, channels: Sequence[tuple[int, int]], teachers: Sequence[TeacherProbe]
    ) -> None:
        for source, target in channels:
            if self._connector is None:
                self.connectors.append(nn.Identity())
                continue
            connector = build_part(
                self._connector,
                nn.Module,
                'connector',
                in_channels=source,
                out_channels=target,
                factor_channels=target,
            )
            self.connectors.append(connector)

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        loss: Tensor = self.loss(self.connectors[number](student), teacher)
        return loss
