"""The keys beside the model: what a distillation changes in the config of a plain run."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS

from mmkd_plugin.adapters.dry_run import first_line
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.recipes.table import Recipe
from mmkd_plugin.recipes.text import Code


def changes_of(
    base: Config, recipe: Recipe, config: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the top-level keys beside the model.

    Args:
        base: The student's config.
        recipe: The recipe of the method.
        config: The config of the method.
        options: Changes that the user makes.
    """
    hooks: list[Any] = []
    learns = config['type'] == 'AMTMLKD' or config.get('weighting') is not None
    if not recipe.mutual and base.get('val_cfg') is not None:
        hooks.append(dict(type='mmkd_plugin.EvaluateTeachers'))
    if learns:
        hooks.append(dict(type='mmkd_plugin.LogTeacherWeights'))
    hooks.append(dict(type='mmkd_plugin.SaveStudent'))
    given = [Code('*_base_.custom_hooks')] if base.get('custom_hooks') else []
    changes: dict[str, Any] = {}
    if 'custom_hooks' not in options:
        changes['custom_hooks'] = [*given, *hooks]
    if learns:
        changes |= _without_decay(base, options)
    if recipe.mutual:
        wrapper = changes.get('optim_wrapper', {})
        changes['optim_wrapper'] = dict(wrapper, constructor='mmkd_plugin.PeerOptimWrappers')
        changes['model_wrapper_cfg'] = dict(type='mmkd_plugin.PeerDataParallel')
        if base.get('val_cfg') is not None:
            changes['val_cfg'] = dict(type='mmkd_plugin.PeerValLoop')
        if base.get('test_cfg') is not None:
            changes['test_cfg'] = dict(type='mmkd_plugin.PeerTestLoop')
    return changes


def merged_with(content: Mapping[str, Any], options: Mapping[str, Any]) -> Config:
    """Return a config with the changes of a user.

    Args:
        content: Its top-level keys.
        options: Changes, ``{'train_cfg.max_epochs': 1}``.

    Raises:
        ConfigError: If one does not fit.
    """
    merged = Config(dict(content))
    for key, value in options.items():
        try:
            merged.merge_from_dict({key: value})
        except (TypeError, KeyError, IndexError, AssertionError) as error:
            raise ConfigError(
                f'cfg.{key}',
                f'does not fit the config: {first_line(error)}',
                'An entry of a list has a number in place of a name.',
                found=value,
            ) from error
    return merged


def _without_decay(base: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what keeps weight decay, which would make all teachers' weights equal, off them.

    MMEngine multiplies a decay that the config states. So a default one, as AdamW has, is stated.
    """
    own = {key: one for key, one in options.items() if key.partition('.')[0] == 'optim_wrapper'}
    wrapper = merged_with(dict(optim_wrapper=base.get('optim_wrapper') or {}), own).optim_wrapper
    optimizer = wrapper.get('optimizer') or {}
    found: dict[str, Any] = {}
    if optimizer.get('weight_decay') is None:
        kind = OPTIMIZERS.get(str(optimizer.get('type')))
        decay = signature(kind).parameters.get('weight_decay') if kind is not None else None
        if decay is None or not decay.default or decay.default is decay.empty:
            return found
        found['optimizer'] = dict(weight_decay=decay.default)
    keys = {'weighting': dict(decay_mult=0.0)}
    return dict(optim_wrapper=dict(found, paramwise_cfg=dict(custom_keys=keys)))
