"""MGD: the teacher's map, generated from the student's masked map."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.probe import TeacherProbe
from mmkd_plugin.errors import fraction
from mmkd_plugin.models.losses import mgd_loss
from mmkd_plugin.models.methods.connected import ConnectedMethod
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class MGD(ConnectedMethod):
    r"""Generate the teacher's map from the student's, of which random locations are set to 0.

    .. math:: L = w \sum_p \frac1N \sum \bigl(t^p - G_p(m \cdot F_p(s^p))\bigr)^2

    The generator :math:`G_p` is a 3x3 convolution, a ReLU and a 3x3 convolution. It learns with the
    student, and is not part of it. :math:`F_p` is a 1x1 convolution if the channels differ. The
    mask :math:`m`, (N, 1, H, W), is drawn anew in each step of training, from torch's generator of
    the device; in eval mode nothing is masked and nothing drawn.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`.
        mask_ratio: Probability that a location is set to 0, in [0, 1). The authors have 0.65 for
            one-stage and 0.45 for two-stage detectors.
        loss_weight: :math:`w`; the authors have 2e-5 for one-stage and 5e-7 for two-stage
            detectors. The sum over the map makes it depend on the size of images.

    Raises:
        ConfigError: If a pair lacks a tap, a tap records no map, or the ratio is out of range.

    Example:
        >>> from mmkd_plugin.adapters import Probe
        >>> from mmkd_plugin.outputs import NetworkOutput
        >>> student = NetworkOutput(features={'neck': torch.rand(2, 4, 8, 8)})
        >>> teacher = NetworkOutput(features={'neck': torch.rand(2, 6, 8, 8)})
        >>> method = MGD([dict(student='neck', teacher='neck')])
        >>> method.build(Probe('student', student), [TeacherProbe('teacher', teacher, nn.ReLU())])
        >>> method.connectors[0].weight.shape, method.generators[0][0].weight.shape
        (torch.Size([6, 4]), torch.Size([6, 6, 3, 3]))
        >>> list(method(student, [teacher], None))
        ['loss_mgd']

    Reference:
        Yang et al., Masked Generative Distillation, ECCV 2022.
    """

    loss_name = 'loss_mgd'

    def __init__(
        self,
        pairs: Sequence[Mapping[str, Any]],
        mask_ratio: float = 0.65,
        loss_weight: float = 2e-5,
    ) -> None:
        super().__init__(pairs, loss_weight=loss_weight)
        self.mask_ratio = fraction('mask_ratio', mask_ratio)
        self.generators = nn.ModuleList()

    def build_connectors(
        self, channels: Sequence[tuple[int, int]], teachers: Sequence[TeacherProbe]
    ) -> None:
        super().build_connectors(channels, teachers)
        for _, target in channels:
            self.generators.append(
                nn.Sequential(
                    nn.Conv2d(target, target, kernel_size=3, padding=1),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(target, target, kernel_size=3, padding=1),
                )
            )

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        source = self.connect(number, student, teacher)
        if self.training and self.mask_ratio:
            drawn = torch.rand(len(source), 1, *source.shape[2:], device=source.device)
            source = source * (drawn >= self.mask_ratio)
        return mgd_loss(self.generators[number](source), teacher)
