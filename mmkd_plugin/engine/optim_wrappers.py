"""One optimizer for each peer, from one shared config or from a config each."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import nn

from mmkd_plugin.engine.data_parallel import PeerDataParallel
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.run_model import unwrap
from mmkd_plugin.models.distillers import MutualDistiller
from mmkd_plugin.models.distillers.mutual_step import AUXILIARY_PREFIX
from mmkd_plugin.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PeerOptimWrappers:
    """Build the optimizers of a :class:`MutualDistiller`.

    Set ``optim_wrapper=dict(constructor='mmkd_plugin.PeerOptimWrappers', …)``. There is one
    optimizer for each peer and its methods, with the name of the peer, and one for the auxiliary
    modules of each peer that has some, called ``auxiliary_<peer>``. All keys of an ordinary
    ``optim_wrapper`` are shared by all. Two more keys change them:
    ``peers=dict(<name>=dict(optimizer=dict(lr=0.05)))`` by name, and ``auxiliary=dict(…)`` for all
    auxiliary modules. Without ``optimizer`` and ``peers`` the keys are the names, with a config
    each.

    Args:
        optim_wrapper_cfg: The config without ``constructor`` and ``paramwise_cfg``.
        paramwise_cfg: Shared, as any key. Parameters of a peer's network have the names of a plain
            run, those of its methods begin with ``methods.``.

    Raises:
        ConfigError: When built, if the model is another, a key names no optimizer, or an optimizer
            has no config.
    """

    def __init__(
        self,
        optim_wrapper_cfg: Mapping[str, Any],
        paramwise_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        shared = copy.deepcopy(dict(optim_wrapper_cfg))
        if paramwise_cfg is not None:
            shared['paramwise_cfg'] = paramwise_cfg
        if 'apart' in shared:
            raise ConfigError(
                'optim_wrapper.apart',
                'is called optim_wrapper.auxiliary since version 0.2',
                'Rename the key.',
                found=shared['apart'],
            )
        if 'optimizer' in shared or 'peers' in shared:
            self.by_name = dict(shared.pop('peers', None) or {})
            self.auxiliary = dict(shared.pop('auxiliary', None) or {})
        else:
            names = [name for name, value in shared.items() if isinstance(value, Mapping)]
            self.by_name = {name: shared.pop(name) for name in names}
            self.auxiliary = self.by_name.pop('auxiliary', {})
        self.shared = shared

    def __call__(self, model: nn.Module) -> 'PeerOptimWrapperDict':
        if is_model_wrapper(model) and not isinstance(model, PeerDataParallel):
            raise ConfigError(
                'model_wrapper_cfg',
                'several networks in several processes need another wrapper',
                "Set model_wrapper_cfg=dict(type='mmkd_plugin.PeerDataParallel').",
                found=type(model).__name__,
            )
        distiller = unwrap(model)
        if not isinstance(distiller, MutualDistiller):
            raise ConfigError(
                'optim_wrapper.constructor',
                'mmkd_plugin.PeerOptimWrappers needs mmkd_plugin.MutualDistiller as model',
                'Remove optim_wrapper.constructor.',
                found=type(distiller).__name__,
            )
        parts = distiller.trained_together()
        configs = self._configs(list(parts))
        return PeerOptimWrapperDict(
            {name: _build(name, part, configs[name]) for name, part in parts.items()}
        )

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        if unknown := [name for name in self.by_name if name not in names]:
            raise ConfigError(
                f'optim_wrapper.peers.{unknown[0]}',
                'names no optimizer',
                f'The names are {", ".join(names)}.',
                found=self.by_name[unknown[0]],
            )
        configs = {}
        for name in names:
            auxiliary = self.auxiliary if name.startswith(AUXILIARY_PREFIX) else {}
            merged = Config(dict(wrapper=copy.deepcopy(self.shared)))
            for changes in (auxiliary, self.by_name.get(name) or {}):
                merged.merge_from_dict(dict(wrapper=copy.deepcopy(dict(changes))))
            if not isinstance(merged.wrapper.get('optimizer'), Mapping):
                raise ConfigError(
                    f'optim_wrapper.peers.{name}.optimizer',
                    "must be dict(type='SGD', …), here or for all",
                    found=merged.wrapper.get('optimizer'),
                )
            configs[name] = merged.wrapper
        return configs


class PeerOptimWrapperDict(OptimWrapperDict):
    """MMEngine's dict of optimizers, with gradient accumulation and a check of resumed names.

    Args:
        wrappers: Optimizers by name. MMEngine takes keyword arguments, of which none may be called
            ``self``.
    """

    def __init__(self, wrappers: Mapping[str, OptimWrapper]) -> None:
        super().__init__()
        self.optim_wrappers = dict(wrappers)

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Start the iteration count of every optimizer; each is called once an iteration."""
        for wrapper in self.values():
            wrapper.initialize_count_status(model, cur_iter, max_iters)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume all optimizers.

        Raises:
            ConfigError: If the checkpoint has other optimizers.
        """
        if set(state_dict) != set(self.keys()):
            raise ConfigError(
                'optim_wrapper',
                f'must be the optimizers that the run began with, {list(state_dict)}',
                'Put the peers and methods of the first run back, or start a new run.',
                found=list(self.keys()),
            )
        super().load_state_dict(state_dict)


def _build(name: str, part: nn.Module, config: Any) -> OptimWrapper:
    wrapper = build_optim_wrapper(part, config)
    if wrapper.clip_grad_kwargs:
        wrapper.grad_name = f'{name}.{wrapper.grad_name}'  # each logs its own norm
    return wrapper
