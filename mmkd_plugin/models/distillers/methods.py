"""From the config key ``methods`` to the methods that take part in the run."""

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmkd_plugin.models.methods import Method
from mmkd_plugin.registry import MODELS, SCOPE


def active_methods(configs: Any) -> nn.ModuleDict:
    """Build every method of some weight, by name. Our own types need no prefix, whatever the run's default scope.

    Raises:
        ValueError: If a name or a config is wrong; the message begins with ``methods.<name>``.
    """
    if not isinstance(configs, Mapping) or not configs:
        raise ValueError(
            f"methods: expected dict(name=dict(type='SoftTarget', …), …), got {configs!r}"
        )
    methods = nn.ModuleDict()
    for name, config in configs.items():
        key = f'methods.{name}'
        if (
            not str(name).isidentifier()
            or 'loss' in name
            or name == 'task'
            or hasattr(nn.ModuleDict, name)
        ):
            raise ValueError(
                f"{key}: expected a name that is a word, without 'loss' (MMEngine sums every log key that has it), not "
                f"'task', and none that torch has for a ModuleDict, got {name!r}"
            )
        if not isinstance(config, Mapping) or 'type' not in config:
            raise ValueError(f'{key}: expected a config with a "type", got {config!r}')
        try:
            method = MODELS.build({**config, '_scope_': SCOPE})
        except (ValueError, TypeError) as error:
            raise ValueError(f'{key}.{error}') from error
        except KeyError as error:
            raise ValueError(
                f'{key}.type: expected a registered method, got {config["type"]!r}'
            ) from error
        if not isinstance(method, Method):
            raise ValueError(f'{key}.type: expected a method, got {type(method).__name__}')
        if method.active:
            methods[name] = method
        else:
            print_log(f'{key} has no weight: it takes no part in this run', logger='current')
    return methods
