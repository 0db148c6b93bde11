"""The teachers of a run, from the config key ``teachers``."""

from collections.abc import Mapping
from typing import Any

from mmkd_plugin.adapters.replayed_teacher import ReplayedTeacher
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import ConfigError, config_key, construct, mapping, positive_integer
from mmkd_plugin.views.settings import View


def build_teachers(configs: Any, run_preprocessor: Mapping[str, Any] | None) -> list[Teacher]:
    """Build the list under the config key ``teachers``.

    Raises:
        ConfigError: If it is empty, if two share a name, or if one of them is wrong.
    """
    if not isinstance(configs, (list, tuple)) or not configs:
        raise ConfigError('teachers', 'must be a list of at least one teacher', found=configs)
    teachers: list[Teacher] = []
    for index, config in enumerate(configs):
        key = f'teachers[{index}]'
        teacher = build_teacher(config, run_preprocessor, key, f'teacher{index}')
        if teacher.name in {other.name for other in teachers}:
            raise ConfigError(f'{key}.name', 'is the name of another teacher', found=teacher.name)
        teachers.append(teacher)
    return teachers


def build_teacher(
    config: Any, run_preprocessor: Mapping[str, Any] | None, key: str, default_name: str = 'teacher'
) -> Teacher:
    """Build one teacher from its dict.

    Raises:
        ConfigError: If something in it is wrong.
    """
    if not isinstance(config, Mapping) or 'model' not in config:
        raise ConfigError(key, 'must be dict(name=…, model=…, checkpoint=…)', found=config)
    known = {'name', 'model', 'checkpoint', 'cfg_options', 'data_preprocessor', 'class_map'}
    known |= {'checkpoint_key', 'checkpoint_prefix', 'replay'}
    known |= {'view', 'standardize'}
    known |= {'fast', 'precision', 'compile', 'offload'}
    if unknown := sorted(config.keys() - known):
        raise ConfigError(
            f'{key}.{unknown[0]}',
            'is not a key of a teacher',
            f'The keys are {", ".join(sorted(known))}.',
            found=config[unknown[0]],
        )
    name = str(config.get('name', default_name))
    options = {option: value for option, value in config.items() if option != 'name'}
    options |= dict(name=name, run_preprocessor=run_preprocessor, key=f'{key} ({name})')
    options |= dict(
        view=_view(config, options['key']), standardize=_batches(config, options['key'])
    )
    if options.pop('replay', None) is None:
        return Teacher(**options)
    return ReplayedTeacher(config['replay'], **options)


def _view(config: Mapping[str, Any], key: str) -> View | None:
    """Return the view under ``view``; building it shows whether its transforms can be built."""
    if config.get('view') is None:
        return None
    with config_key(key):
        stated = mapping('view', config['view'], 'dict(pipeline=[…]) or dict(size=(224, 224))')
        return construct('view', View, stated)


def _batches(config: Mapping[str, Any], key: str) -> int | None:
    """Return the number of batches under ``standardize``."""
    if config.get('standardize') is None:
        return None
    with config_key(key):
        stated = mapping('standardize', config['standardize'], 'dict(batches=50)')
        return construct('standardize', _standardize, stated)


def _standardize(batches: int = 50) -> int:
    return positive_integer('batches', batches)
