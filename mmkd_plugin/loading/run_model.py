"""The model of a run: its kind by its config, and the model inside a wrapper."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from mmengine.model import is_model_wrapper
from torch import nn

from mmkd_plugin.registry import SCOPE

Kind = Literal['student', 'mutual', 'paraphraser', '']
_KINDS: dict[str, Kind] = {
    'Distiller': 'student',
    'MutualDistiller': 'mutual',
    'ParaphraserTrainer': 'paraphraser',
}


def kind_of(model: Any) -> Kind:
    """Return what a model config trains.

    Args:
        model: The dict under the key ``model`` of a config. Its ``type`` is a name, with or without
            the prefix of this package, or a class, as in new-style configs.

    Returns:
        ``'student'`` for a ``Distiller``, ``'mutual'`` for a ``MutualDistiller``, ``'paraphraser'``
        for a ``ParaphraserTrainer``, and ``''`` for any other model.

    Example:
        >>> kind_of(dict(type='mmkd_plugin.Distiller')), kind_of(dict(type='MutualDistiller'))
        ('student', 'mutual')
        >>> kind_of(dict(type='mmdet.RetinaNet'))
        ''
    """
    kind = model.get('type') if isinstance(model, Mapping) else None
    names = own_names(kind) or [str(kind)]
    return next((_KINDS[name] for name in names if name in _KINDS), '')


def own_names(kind: Any) -> list[str]:
    """Return the names of the classes of this package that a config's ``type`` states.

    Args:
        kind: A name with the prefix of this package, or a class. The classes of this package from
            which a class inherits count too.

    Example:
        >>> own_names('mmkd_plugin.PeerValLoop'), own_names('mmkd_plugin.engine.loops.PeerValLoop')
        (['PeerValLoop'], ['PeerValLoop'])
        >>> own_names('PeerValLoop')
        []
    """
    if inspect.isclass(kind):
        paths = [f'{base.__module__}.{base.__name__}' for base in kind.__mro__]
    else:
        paths = [str(kind)]
    return [path.rpartition('.')[2] for path in paths if path.startswith(f'{SCOPE}.')]


def with_type_names(config: Any) -> Any:
    """Return a config with names in place of the classes and functions under ``type``.

    New-style configs hold objects, which MMEngine cannot write to a file once they are resolved.

    Example:
        >>> from mmengine.hooks import EMAHook
        >>> with_type_names(dict(hook=dict(type=EMAHook, momentum=0.1)))
        {'hook': {'type': 'mmengine.hooks.ema_hook.EMAHook', 'momentum': 0.1}}
    """
    if isinstance(config, Mapping):
        return {
            key: type_name(value) if key == 'type' else with_type_names(value)
            for key, value in config.items()
        }
    if type(config) in (list, tuple):
        return type(config)(map(with_type_names, config))
    return config


def type_name(kind: Any) -> str:
    """Return the name under which MMEngine finds what a config has under ``type``.

    Example:
        >>> from mmengine.optim import OptimWrapper
        >>> type_name('OptimWrapper'), type_name(OptimWrapper).rpartition('.')[2]
        ('OptimWrapper', 'OptimWrapper')
    """
    return kind if isinstance(kind, str) else f'{kind.__module__}.{kind.__qualname__}'


def unwrap(model: nn.Module) -> Any:
    """Return the model inside a wrapper, such as that of DistributedDataParallel, or itself."""
    return model.module if is_model_wrapper(model) else model
