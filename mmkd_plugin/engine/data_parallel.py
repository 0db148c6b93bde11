"""Several networks in several processes."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import MMDistributedDataParallel, MMSeparateDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmkd_plugin.models.distillers.mutual_distiller import MutualDistiller
from mmkd_plugin.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class PeerDataParallel(MMSeparateDistributedDataParallel):
    """Synchronise each peer, its lessons, its connectors apart: ``model_wrapper_cfg=dict(type='mmkd_plugin.PeerDataParallel')``.

    MMEngine's ``MMDistributedDataParallel`` runs a train_step of its own, for one optimizer. Its ``MMSeparate…`` one puts wrappers
    into the model, so ``.module.`` into the middle of the names in a checkpoint, which its own loader, and a run in one process, then
    do not find. Here the model stays as it is: checkpoints, EMA and export are those of one process.

    Args:
        module: The model.
        kwargs: For each wrapper, as torch's ``DistributedDataParallel`` takes them.

    Raises:
        ValueError: If the model is another.
    """

    def __init__(self, module: nn.Module, broadcast_buffers: bool = False, **kwargs: Any) -> None:
        nn.Module.__init__(self)  # not those between: they wrap the whole, or the children in place
        if not isinstance(module, MutualDistiller):
            raise ValueError(
                f'model_wrapper_cfg.type: expected mmkd_plugin.PeerDataParallel for mmkd_plugin.MutualDistiller alone, got it for '
                f'{type(module).__name__}'
            )
        self.module = module
        self._parallel: Mapping[
            str, nn.Module
        ] = {  # no children: they would be in the state dict a second time
            name: MMDistributedDataParallel(child, broadcast_buffers=broadcast_buffers, **kwargs)
            for name, child in module.named_children()
            if any(parameter.requires_grad for parameter in child.parameters())
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """The model's, with what is synchronised called through its wrapper."""
        model: Any = self.module
        return model.train_step(data, optim_wrapper, self._parallel)
