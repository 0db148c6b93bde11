"""Several networks in several processes."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import MMDistributedDataParallel, MMSeparateDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.distillers import MutualDistiller
from mmkd_plugin.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class PeerDataParallel(MMSeparateDistributedDataParallel):
    """Synchronise the network, the methods and the auxiliary modules of each peer.

    Set ``model_wrapper_cfg=dict(type='mmkd_plugin.PeerDataParallel')``. MMEngine's
    ``MMDistributedDataParallel`` has a train_step for one optimizer. Its ``MMSeparate…`` one puts
    wrappers into the model, so ``.module.`` stands inside the names of a checkpoint, which its own
    loader, and a run in one process, then do not find. Here the model stays as it is: checkpoints,
    EMA and export are those of one process.

    Args:
        module: The model.
        broadcast_buffers: As in torch's ``DistributedDataParallel``.
        kwargs: Arguments of each wrapper, as in torch's ``DistributedDataParallel``.

    Raises:
        ConfigError: If the model is another.
    """

    def __init__(self, module: nn.Module, broadcast_buffers: bool = False, **kwargs: Any) -> None:
        nn.Module.__init__(self)  # not those between: they wrap the whole, or children in place
        if not isinstance(module, MutualDistiller):
            raise ConfigError(
                'model_wrapper_cfg.type',
                'mmkd_plugin.PeerDataParallel needs mmkd_plugin.MutualDistiller as model',
                'Remove model_wrapper_cfg.',
                found=type(module).__name__,
            )
        self.module = module
        parts = [
            part
            for peer in module.all_peers()
            for part in (peer.network, peer.methods, peer.auxiliary)
            if any(parameter.requires_grad for parameter in part.parameters())
        ]
        # A plain dict: children would be in the state dict a second time.
        self._parallel: Mapping[nn.Module, nn.Module] = {
            part: MMDistributedDataParallel(part, broadcast_buffers=broadcast_buffers, **kwargs)
            for part in parts
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Run the model's train_step, with the wrappers of what is synchronised."""
        model: Any = self.module
        return model.train_step(data, optim_wrapper, self._parallel)
