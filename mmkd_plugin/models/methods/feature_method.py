"""Any registered loss between feature maps, as a method."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import ConfigError, config_key
from mmkd_plugin.models.losses import FeatureLoss, RelationLoss
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.registry import MODELS, build_part, class_of


@MODELS.register_module()
class FeatureMethod(PairedMethod):
    r"""Apply a loss to pairs of feature maps, behind a connector if the config names one.

    .. math:: L = w \sum_p \ell(F_p(v_p), u_p)

    Args:
        loss: Config of the loss :math:`\ell`, such as ``dict(type='HintLoss')``: a
            :class:`~mmkd_plugin.models.losses.FeatureLoss`, as
            :func:`~mmkd_plugin.models.losses.loss_module` registers them.
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`.
        connector: Config of :math:`F_p`, such as ``dict(type='HintRegressor')``, built for the
            channels of each pair; None compares the maps as they are.
        loss_weight: :math:`w`.

    Raises:
        ConfigError: If the loss or the connector is unknown or refuses its arguments, the loss is
            one on relations between images, or the loss cannot compare a pair.

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
        pairs: Sequence[Mapping[str, Any]] | str,
        connector: Mapping[str, Any] | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(pairs, loss_weight=loss_weight)
        self.loss = build_loss(loss, FeatureLoss)
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

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        super().build(student, teachers)
        outputs = student.output, [teacher.output for teacher in teachers]
        for number, pair in enumerate(self.maps(*outputs)):
            with config_key(f'pairs[{number}]'):
                self._require_comparable(number, *pair)

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        loss: Tensor = self.loss(self.connectors[number](student), teacher)
        return loss

    @torch.no_grad()
    def _require_comparable(self, number: int, student: Tensor, teacher: Tensor) -> None:
        """Compute the loss of one pair once, for two equal images, to see that the shapes fit."""
        images = torch.cat([student, student]), torch.cat([teacher, teacher])
        self.eval()
        try:
            self.pair_loss(number, *images)
        except ConfigError as error:
            raise error.inside('connector') from None
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0].rstrip('.')
            raise ConfigError(
                'student',
                f'the loss cannot compare it with the teacher: {reason}',
                "Set a connector, such as connector=dict(type='HintRegressor'), or another one.",
                found=tuple(student.shape),
            ) from error
        finally:
            self.train()


def build_loss(config: Mapping[str, Any], kind: type[nn.Module]) -> nn.Module:
    """Build the loss of a method that takes losses of one kind.

    Args:
        config: Config under the key ``loss``.
        kind: :class:`~mmkd_plugin.models.losses.FeatureLoss` or
            :class:`~mmkd_plugin.models.losses.RelationLoss`.

    Raises:
        ConfigError: If the loss is unknown, is of another kind, or refuses its arguments.
    """
    found = class_of(config, nn.Module, 'loss')
    if not issubclass(found, kind):
        fix = f'Register it by @loss_module, or derive it from {kind.__name__}.'
        if issubclass(found, RelationLoss):
            fix = 'It compares the images of a batch: use RelationMethod.'
        elif issubclass(found, FeatureLoss):
            fix = 'It compares image by image: use FeatureMethod.'
        raise ConfigError('loss.type', f'must be a {kind.__name__}', fix, found=config['type'])
    return build_part(config, kind, 'loss')
