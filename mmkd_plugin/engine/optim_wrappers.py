"""One optimizer a peer, from one shared config or from a config each."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import nn

from mmkd_plugin.engine.data_parallel import PeerDataParallel
from mmkd_plugin.loading.peer_entries import APART_PREFIX
from mmkd_plugin.models.distillers.mutual_distiller import MutualDistiller
from mmkd_plugin.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PeerOptimWrappers:
    """Build the optimizers of a :class:`MutualDistiller`: ``optim_wrapper=dict(constructor='mmkd_plugin.PeerOptimWrappers', …)``.

    There is one for each peer, which trains its lessons too, called as the peer; and one for the connectors apart of each peer that has
    some, called ``apart_<peer>``. All keys of an ordinary ``optim_wrapper`` are shared by all; two more keys change them:
    ``peers=dict(<name>=dict(optimizer=dict(lr=0.05)))`` by name, ``apart=dict(…)`` for all connectors apart. Without ``optimizer`` and
    ``peers`` the keys are the names, with a config each.

    Args:
        optim_wrapper_cfg: The config without ``constructor`` and ``paramwise_cfg``.
        paramwise_cfg: Shared, as any key.

    Raises:
        ValueError: When built, if the model is another, a key names no optimizer, or an optimizer has no config.
    """

    def __init__(
        self, optim_wrapper_cfg: Mapping[str, Any], paramwise_cfg: Mapping[str, Any] | None = None
    ) -> None:
        shared = copy.deepcopy(dict(optim_wrapper_cfg))
        if paramwise_cfg is not None:
            shared['paramwise_cfg'] = paramwise_cfg
        if 'optimizer' in shared or 'peers' in shared:
            self.by_name = dict(shared.pop('peers', None) or {})
            self.apart = dict(shared.pop('apart', None) or {})
        else:
            self.by_name = {
                name: shared.pop(name)
                for name, value in [*shared.items()]
                if isinstance(value, Mapping)
            }
            self.apart = self.by_name.pop('apart', {})
        self.shared = shared

    def __call__(self, model: nn.Module) -> 'PeerOptimWrapperDict':
        if is_model_wrapper(model) and not isinstance(model, PeerDataParallel):
            raise ValueError(
                "model_wrapper_cfg: expected dict(type='mmkd_plugin.PeerDataParallel') for several networks in several processes, "
                f'got {type(model).__name__}'
            )
        distiller: Any = model.module if is_model_wrapper(model) else model
        if not isinstance(distiller, MutualDistiller):
            raise ValueError(
                f'optim_wrapper.constructor: expected mmkd_plugin.PeerOptimWrappers for mmkd_plugin.MutualDistiller, got it for '
                f'{type(distiller).__name__}'
            )
        parts = distiller.trained_together()
        configs = self._configs(list(parts))
        return PeerOptimWrapperDict(
            **{name: _build(name, parts[name], configs[name]) for name in parts}
        )

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        if unknown := [name for name in self.by_name if name not in names]:
            raise ValueError(f'optim_wrapper.peers: expected keys of {list(names)}, got {unknown}')
        configs = {}
        for name in names:
            apart = self.apart if name.startswith(APART_PREFIX) else {}
            merged = Config(dict(wrapper=copy.deepcopy(self.shared)))
            for changes in (apart, self.by_name.get(name) or {}):
                merged.merge_from_dict(dict(wrapper=copy.deepcopy(dict(changes))))
            if not isinstance(merged.wrapper.get('optimizer'), Mapping):
                raise ValueError(
                    f"optim_wrapper.peers.{name}.optimizer: expected dict(type='SGD', …), here or for all, got "
                    f'{merged.wrapper.get("optimizer")!r}'
                )
            configs[name] = merged.wrapper
        return configs


class PeerOptimWrapperDict(OptimWrapperDict):
    """MMEngine's dict of optimizers, which alone would neither count for gradient accumulation nor look at the names that it resumes."""

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Every optimizer is called once an iteration: from where the run stands to its end."""
        for wrapper in self.values():
            wrapper.initialize_count_status(model, cur_iter, max_iters)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume all.

        Raises:
            ValueError: If the checkpoint has other optimizers.
        """
        if set(state_dict) != set(self.keys()):
            raise ValueError(
                f'optim_wrapper: expected the optimizers that the run began with, {list(state_dict)}, got {list(self.keys())}'
            )
        super().load_state_dict(state_dict)


def _build(name: str, parts: Sequence[nn.Module], config: Any) -> OptimWrapper:
    trained = [part for part in parts if any(True for _ in part.parameters())]
    together = (
        trained[0] if len(trained) == 1 else nn.ModuleDict(dict(peer=parts[0], lessons=parts[1]))
    )
    wrapper = build_optim_wrapper(together, config)
    if wrapper.clip_grad_kwargs:
        wrapper.grad_name = f'{name}.{wrapper.grad_name}'  # each logs its own norm
    return wrapper
