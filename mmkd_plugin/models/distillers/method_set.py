"""Methods of a run, built from the config key ``methods``."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from mmengine.logging import print_log
from torch import nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods import Method
from mmkd_plugin.registry import build_part

#: Log keys that have another meaning.
_TAKEN = ('task',)


class MethodSet(nn.ModuleDict):
    """Methods by name, without those whose weights are all 0.

    Args:
        configs: ``dict(name=dict(type=…, …), …)``. Our own types need no prefix, whatever the
            default scope of the run.

    Raises:
        ConfigError: If a name or a config is wrong.
    """

    def __init__(self, configs: Any = None) -> None:
        super().__init__()
        if not isinstance(configs, Mapping) or not configs:
            raise ConfigError(
                'methods', "must be dict(name=dict(type='SoftTarget', …), …)", found=configs
            )
        for name, config in configs.items():
            key = f'methods.{name}'
            self._check_name(key, name)
            method = build_part(config, Method, key)
            if method.active:
                self[name] = method
            else:
                print_log(f'{key} takes no part in this run: its weights are 0', logger='current')

    def named(self) -> Iterator[tuple[str, Method]]:
        """Yield names and methods."""
        return ((name, cast(Method, method)) for name, method in self.items())

    def _check_name(self, key: str, name: Any) -> None:
        word = isinstance(name, str) and name.isidentifier()
        if not word or 'loss' in name:
            raise ConfigError(
                key,
                "the name must be a word without 'loss': MMEngine adds every log key with that "
                'word to the total',
                found=name,
            )
        if name in _TAKEN or hasattr(self, name):  # an attribute of a module names no child
            raise ConfigError(key, 'the name is reserved', 'Choose another name.', found=name)
