"""Tapped tensors of teachers at equal scale: mean 0 and variance 1 in each channel."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mmkd_plugin.adapters.tapped_model import outside_graphs
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods import Method
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.outputs import NetworkOutput

#: Share of the mean variance that is added to each: a constant channel becomes 0.
_EPS = 1e-6
#: The same where all channels are constant.
_LEAST = 1e-20


class ChannelScale(nn.Module):
    r"""Mean and variance of each channel over the first batches of a run.

    .. math:: y = (x - \mu) / \sqrt{\sigma^2 + 10^{-6} \, \overline{\sigma^2}}

    with the mean of :math:`\sigma^2` over the channels under the bar. In training batch b of the
    first ``batches`` both are those of batches 1 to b, over all images, locations and processes;
    afterwards they stay. They are float64 buffers, so a resumed run goes on with them.

    Args:
        channels: Number of channels.
        batches: Number of batches that are measured.

    Example:
        >>> scale = ChannelScale(1, batches=1)
        >>> scale(torch.tensor([[1.0], [3.0]])).flatten()
        tensor([-1.0000,  1.0000])
        >>> scale(torch.tensor([[5.0]])).item()  # a second batch is not measured
        2.99999...
    """

    mean: Tensor
    squares: Tensor
    count: Tensor
    measured: Tensor

    def __init__(self, channels: int, batches: int) -> None:
        super().__init__()
        self.batches = batches
        self.register_buffer('mean', torch.zeros(channels, dtype=torch.float64))
        self.register_buffer('squares', torch.zeros(channels, dtype=torch.float64))
        self.register_buffer('count', torch.zeros((), dtype=torch.float64))
        self.register_buffer('measured', torch.zeros((), dtype=torch.int64))
        self._finished = False  # spares a device-to-host copy every step

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._finished = False

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """Return values (N, C) or (N, C, …) at mean 0 and variance 1, in their own precision."""
        if self.training:
            self.measure(values)
        if not self._finished and not self.measured:  # evaluated before the first step
            return values
        shape = (1, -1, *[1] * (values.ndim - 2))
        variance = self.squares / self.count
        scale = (variance + _EPS * variance.mean() + _LEAST).rsqrt()
        return ((values.double() - self.mean.view(shape)) * scale.view(shape)).to(values.dtype)

    @outside_graphs
    @torch.no_grad()
    def measure(self, values: Tensor) -> None:
        """Add a batch, unless enough of them are measured."""
        self._finished = self._finished or int(self.measured) >= self.batches
        if self._finished:
            return
        flat = values.detach().double().transpose(0, 1).flatten(1)  # (C, locations)
        sums = torch.cat([flat.sum(dim=1), flat.new_tensor([flat.shape[1]])])
        _add_up(sums)
        count = sums[-1]
        mean = sums[:-1] / count
        squares = (flat - mean[:, None]).square().sum(dim=1)
        _add_up(squares)
        # Chan et al.: two groups are merged without the cancellation of a sum of squares.
        total = self.count + count
        apart = mean - self.mean
        self.squares += squares + apart.square() * self.count * count / total
        self.mean += apart * count / total
        self.count.copy_(total)
        self.measured += 1


class TeacherScales(nn.Module):
    """Scales of each tapped tensor of the teachers that have ``standardize``.

    Args:
        teachers: The teachers, after their probe.

    Raises:
        ConfigError: If a tapped tensor has no channels.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        super().__init__()
        self.taps: dict[str, list[str]] = {}
        for index, teacher in enumerate(teachers):
            if teacher.standardize is None:
                continue
            taps = self.taps[str(index)] = sorted(teacher.probed)
            if not taps:
                raise ConfigError(
                    f'{teacher.key}.standardize',
                    'needs a tapped tensor of this teacher, and no method requests one',
                    'Leave it out: class scores stay as they are.',
                )
            scales = []
            for tap in taps:
                shape = teacher.probed[tap]
                if len(shape) not in (2, 4):
                    raise ConfigError(
                        f'{teacher.key}.standardize',
                        f'needs maps (N, C, H, W) or features (N, C), unlike those of {tap!r}',
                        'Tap another module.',
                        found=shape,
                    )
                scales.append(ChannelScale(shape[1], teacher.standardize))
            self.add_module(str(index), nn.ModuleList(scales))

    def record(self, index: int) -> dict[str, Any]:
        """Return what a resumed run must have too: ``standardize=dict(batches, taps)``."""
        taps = self.taps.get(str(index))
        if taps is None:
            return {}
        scales = cast(nn.ModuleList, self.get_submodule(str(index)))
        batches = cast(ChannelScale, scales[0]).batches
        return dict(standardize=dict(batches=batches, taps=', '.join(taps)))

    def forward(self, index: int, output: NetworkOutput) -> NetworkOutput:
        """Return an output of a teacher with its tapped tensors at equal scale.

        Args:
            index: Index of the teacher.
            output: Its outputs for a batch.
        """
        taps = self.taps.get(str(index))
        if taps is None or not output.features:
            return output
        scales = cast(nn.ModuleList, self.get_submodule(str(index)))
        of_tap = dict(zip(taps, scales, strict=True))
        features = {tap: of_tap[tap](value) for tap, value in output.features.items()}
        return replace(output, features=features)


def require_scalable(teachers: Sequence[Teacher], methods: Mapping[str, Method]) -> None:
    """Refuse methods that need the maps of a teacher at their own scale.

    Args:
        teachers: The teachers.
        methods: Methods by name.

    Raises:
        ConfigError: With the method.
    """
    for name, method in methods.items():
        for pair in method.pairs if isinstance(method, PairedMethod) else ():
            teacher = teachers[pair.index]
            if teacher.standardize is not None and (pair.checkpoint or pair.norm):
                raise ConfigError(
                    f'methods.{name}',
                    'reads the maps of a teacher at their own scale, by its BatchNorm or a trained '
                    f'paraphraser, but {teacher.key} has standardize',
                    'Leave standardize out of this teacher, or use another method.',
                    found=type(method).__name__,
                )


def _add_up(values: Tensor) -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
