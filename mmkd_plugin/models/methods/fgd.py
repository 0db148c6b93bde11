"""FGD: objects and background apart, and the relation of each location to the whole image."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.probe import TeacherProbe
from mmkd_plugin.errors import ConfigError, positive_number
from mmkd_plugin.models.connectors.global_context import GlobalContext
from mmkd_plugin.models.losses import mgd_loss
from mmkd_plugin.models.losses.fgd import fgd_focal_losses, object_masks
from mmkd_plugin.models.losses.functional import align
from mmkd_plugin.models.methods.base import Requests
from mmkd_plugin.models.methods.connected import ConnectedMethod
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class FGD(ConnectedMethod):
    r"""Match maps of detectors, with objects and background apart, and with global relations.

    .. math:: L = \sum_p \alpha L_f^p + \beta L_b^p + \gamma L_a^p
              + \lambda \frac1N \sum \bigl(R_s(s^p) - R_t(t^p)\bigr)^2

    :math:`L_f, L_b, L_a` are in :mod:`mmkd_plugin.models.losses.fgd`. :math:`R_s, R_t` are global
    context blocks, one pair of them for each pair of maps. They learn with the student. A 1x1
    convolution comes first if the channels differ. An image without boxes is background alone.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`: levels of the pyramid.
        temperature: Temperature of the attention.
        foreground_weight: :math:`\alpha`.
        background_weight: :math:`\beta`.
        attention_weight: :math:`\gamma`.
        relation_weight: :math:`\lambda`; 0 builds no context block.

    Raises:
        ConfigError: If a pair lacks a tap, a tap records no map, or the student is no detector.

    Example:
        In a config::

            methods=dict(
                fgd=dict(
                    type='FGD',
                    pairs=[dict(student=f'neck[{n}]', teacher=f'neck[{n}]') for n in range(5)],
                )
            )

    Reference:
        Yang et al., Focal and Global Knowledge Distillation for Detectors, CVPR 2022.
    """

    relation_weight: float

    def __init__(
        self,
        pairs: Sequence[Mapping[str, Any]],
        temperature: float = 0.5,
        foreground_weight: float = 1e-3,
        background_weight: float = 5e-4,
        attention_weight: float = 1e-3,
        relation_weight: float = 5e-6,
    ) -> None:
        weights = dict(
            foreground=foreground_weight,
            background=background_weight,
            attention=attention_weight,
            relation=relation_weight,
        )
        super().__init__(pairs, **{f'{name}_weight': value for name, value in weights.items()})
        self.temperature = positive_number('temperature', temperature)
        self.contexts = nn.ModuleList()

    def requests(self, num_teachers: int) -> Requests:
        taps = super().requests(num_teachers)
        return Requests(taps.student, taps.teachers, objects=True)

    def build_connectors(
        self, channels: Sequence[tuple[int, int]], teachers: Sequence[TeacherProbe]
    ) -> None:
        super().build_connectors(channels, teachers)
        if not self.relation_weight:  # parameters without gradient would stop DDP
            return
        for _, target in channels:
            self.contexts.append(nn.ModuleList(GlobalContext(target) for _ in range(2)))

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        objects = student.objects
        if objects is None:
            raise ConfigError('type', 'needs the boxes of the objects, and the batch has none')
        names = ('foreground', 'background', 'attention', 'relation')
        totals: dict[str, Tensor] = {}
        for number, maps in enumerate(self.maps(student, teachers)):
            own, target = align('FGD', self.connect(number, *maps), maps[1])
            masks = object_masks(objects.boxes, objects.size, own.shape[2:])
            masks = masks[0].to(own), masks[1].to(own)
            losses = [*fgd_focal_losses(own, target, *masks, temperature=self.temperature)]
            if len(self.contexts):
                losses.append(self._relation(number, own, target))
            for name, value in zip(names, losses, strict=False):
                totals[name] = totals[name] + value if name in totals else value
        weights = self.loss_weights
        return {f'loss_{name}': weights[f'{name}_weight'] * x for name, x in totals.items()}

    def _relation(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the squared difference of the maps with their context; both blocks learn."""
        blocks = self.contexts[number]
        difference = blocks[0](student) - blocks[1](teacher)  # type: ignore[index]
        return mgd_loss(difference, difference.new_zeros(()).expand_as(difference))
