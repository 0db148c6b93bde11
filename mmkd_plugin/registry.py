"""Child registries of MMEngine's registries.

Nothing of ours is registered in another project's scope or in the root. ``type='mmkd_plugin.Name'``
in the config of any OpenMMLab project makes MMEngine import this file. The first look-up imports
the packages that are listed as locations.
"""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import LOOPS as ROOT_LOOPS
from mmengine.registry import MODEL_WRAPPERS as ROOT_MODEL_WRAPPERS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import Registry

from mmkd_plugin.errors import ConfigError, construct, nearest_names

T = TypeVar('T')
SCOPE = 'mmkd_plugin'

MODELS = Registry(
    'model',
    parent=ROOT_MODELS,
    scope=SCOPE,
    locations=[
        'mmkd_plugin.models.backbones',
        'mmkd_plugin.models.connectors',
        'mmkd_plugin.models.distillers',
        'mmkd_plugin.models.losses',
        'mmkd_plugin.models.methods',
        'mmkd_plugin.models.schedules',
        'mmkd_plugin.models.weightings',
    ],
)
DATASETS = Registry(
    'dataset',
    parent=ROOT_DATASETS,
    scope=SCOPE,
    locations=['mmkd_plugin.datasets', 'mmkd_plugin.replay', 'mmkd_plugin.views'],
)
DATA_SAMPLERS = Registry(
    'data sampler', parent=ROOT_DATA_SAMPLERS, scope=SCOPE, locations=['mmkd_plugin.replay']
)
HOOKS = Registry('hook', parent=ROOT_HOOKS, scope=SCOPE, locations=['mmkd_plugin.engine.hooks'])
LOOPS = Registry('loop', parent=ROOT_LOOPS, scope=SCOPE, locations=['mmkd_plugin.engine'])
MODEL_WRAPPERS = Registry(
    'model_wrapper', parent=ROOT_MODEL_WRAPPERS, scope=SCOPE, locations=['mmkd_plugin.engine']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS,
    scope=SCOPE,
    locations=['mmkd_plugin.engine'],
)


def build_part(
    config: Any, kind: type[T], key: str, default: str | None = None, **inferred: Any
) -> T:
    """Build a method, weighting, connector or loss from its config dict.

    Args:
        config: ``dict(type=…, …)``; None where ``default`` names a type. A type of ours needs no
            prefix.
        kind: The class that the type must be a subclass of.
        key: The config key, for messages.
        default: The type of a config that has none.
        inferred: Arguments that the config need not state. Those that the type does not take are
            left out.

    Raises:
        ConfigError: If the type is missing, unknown or of another kind, or if it refuses its
            arguments.
    """
    found = class_of(config, kind, key, default)
    given = {name: value for name, value in (config or {}).items() if name != 'type'}
    taken = inspect.signature(found).parameters
    return construct(key, found, {**{n: v for n, v in inferred.items() if n in taken}, **given})


def class_of(config: Any, kind: type[T], key: str, default: str | None = None) -> type[T]:
    """Return the class that :func:`build_part` would build.

    Raises:
        ConfigError: If the type is missing, unknown or of another kind.
    """
    if config is None and default is not None:
        config = {}
    if not isinstance(config, Mapping) or not ('type' in config or default):
        names = [default] if default else _names(kind)[:1]
        fix = ''.join(f"For example dict(type='{name}', …)." for name in names)
        raise ConfigError(key, 'must be a dict with a "type"', fix, found=config)
    name = config.get('type', default)
    found = name if inspect.isclass(name) else _registered(str(name))
    if found is None:
        fix = f'The nearest names are {nearest_names(str(name), _names(kind))}.'
        raise ConfigError(f'{key}.type', 'is not registered', fix, found=name)
    if not (inspect.isclass(found) and issubclass(found, kind)):
        raise ConfigError(f'{key}.type', f'must be a {kind.__name__}', found=name)
    return found


def _names(kind: type[Any]) -> list[str]:
    """Return the names of our registered subclasses of ``kind``, in order."""
    MODELS.import_from_location()
    classes = {name: one for name, one in MODELS.module_dict.items() if inspect.isclass(one)}
    return sorted(name for name, one in classes.items() if issubclass(one, kind))


def _registered(name: str) -> Any:
    MODELS.import_from_location()
    return MODELS.module_dict.get(name.removeprefix(f'{SCOPE}.')) or MODELS.get(name)
