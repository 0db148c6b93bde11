"""The base of networks for small images: numbered stages, some of whose maps are returned."""

from collections.abc import Callable, Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError

HE_INIT = [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', val=1, layer='BatchNorm2d')]


class StagedBackbone(BaseModule):
    """A network whose stages are the modules ``layer1``, ``layer2`` and so on.

    Args:
        num_stages: Number of stages of the whole network.
        out_indices: Stages whose maps are returned, from 0. No later stage is built.
        init_cfg: MMEngine's initialisation; by default Kaiming's for convolutions.

    Raises:
        ConfigError: If ``out_indices`` is empty or names a stage that the network lacks.
    """

    def __init__(
        self,
        num_stages: int,
        out_indices: Sequence[int],
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None,
    ) -> None:
        super().__init__(HE_INIT if init_cfg is None else init_cfg)
        stages = tuple(range(num_stages))
        given = out_indices if isinstance(out_indices, Sequence) else ()
        if not given or not set(given) <= set(stages):
            raise ConfigError(
                self.key('out_indices'), f'must be some of {stages}', found=out_indices
            )
        self.out_indices = tuple(out_indices)

    @classmethod
    def key(cls, argument: str) -> str:
        """Return the key of an argument in errors, such as ``'CifarResNet.depth'``."""
        return f'{cls.__name__}.{argument}'

    @property
    def num_built(self) -> int:
        """The number of stages that are built."""
        return max(self.out_indices) + 1

    def add_stage(self, index: int, blocks: Sequence[nn.Module]) -> None:
        """Add the stage ``index``, counted from 0."""
        self.add_module(f'layer{index + 1}', nn.Sequential(*blocks))

    def run_stages(
        self, x: Tensor, between: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """Return the maps of the stages in ``out_indices``, in the order of the stages.

        Args:
            x: The input of the first stage.
            between: A function that is applied to each map on its way to the next stage.
        """
        maps = []
        for index in range(self.num_built):
            if index and between is not None:
                x = between(x)
            x = self.get_submodule(f'layer{index + 1}')(x)
            if index in self.out_indices:
                maps.append(x)
        return tuple(maps)
