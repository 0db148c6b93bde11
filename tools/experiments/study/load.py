"""Read a study file: resolve its configs, and report its mistakes before anything is trained."""

import copy
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from experiments.study.plan import Arm, Candidate, Study, named_stages
from mmkd_plugin.engine.stages import Stage, config_text, sha256, work_root
from mmkd_plugin.errors import ConfigError, config_key, nearest_names, positive_number

Options = dict[str, Any]
METRIC = 'accuracy/top1'
STUDIES = Path(__file__).parents[1] / 'studies'


def study_files() -> list[Path]:
    """Return the study files of this repository. Those that begin with ``_`` are shared parts."""
    return sorted(path for path in STUDIES.glob('*.py') if not path.name.startswith('_'))


def find_study(name: str) -> Path:
    """Return the file of a study.

    Args:
        name: A path, or the name of a study of this repository, such as ``detection``.

    Raises:
        ConfigError: If there is none. The message lists the studies.
    """
    for path in (Path(name), STUDIES / f'{name}.py'):
        if path.is_file():
            return path
    known = ', '.join(path.stem for path in study_files())
    raise ConfigError('study', 'is neither a file nor a study', f'Studies: {known}.', found=name)


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        ConfigError: If a key is unknown, missing or contradicts another. The name of the study
            stands before the key.
    """
    root = work_root()
    with config_key(path.stem):
        return _study(path, Config.fromfile(path).to_dict(), root)


def _study(path: Path, raw: Options, root: Path) -> Study:
    known = (
        'question baseline seeds arms about metric scale columns tune_seeds prepare config options'
    )
    _check_keys('', raw, known, 'question baseline seeds arms')
    prepare: dict[str, Stage] = {}
    for name, stage in raw.get('prepare', {}).items():  # in order: a stage may need those before it
        prepare[name] = _stage(name, stage, path.parent, root, prepare)
    arms = {name: _arm(name, raw, path.parent, prepare) for name in raw['arms']}
    _check_baseline(raw['baseline'], arms)
    tune_seeds = tuple(raw.get('tune_seeds', ()))
    _check_tuning(arms, tune_seeds, raw['seeds'])
    return Study(
        name=path.stem,
        question=raw['question'],
        about=raw.get('about', ''),
        metric=raw.get('metric', METRIC),
        scale=positive_number('scale', raw.get('scale', 1.0)),
        columns=raw.get('columns', {}),
        baseline=raw['baseline'],
        seeds=tuple(raw['seeds']),
        tune_seeds=tune_seeds,
        prepare=prepare,
        arms=arms,
    )


def _stage(
    name: str, stage: Options, here: Path, root: Path, earlier: Mapping[str, Stage]
) -> Stage:
    _check_keys(f'prepare.{name}', stage, 'config options', 'config')
    cfg = _config(here / stage['config'], stage.get('options', {}))
    digest = _digest(config_text(cfg), earlier)
    cfg.work_dir = str(root / name)
    return Stage(cfg, digest)


def _digest(text: str, prepare: Mapping[str, Stage]) -> str:
    """Return the digest of a config and of the stages it names: a changed teacher changes it."""
    return sha256(
        '\n'.join([text, *(prepare[name].sha256 for name in named_stages(text, prepare))])
    )


def _arm(name: str, study: Options, here: Path, prepare: Mapping[str, Stage]) -> Arm:
    key, arm = f'arms.{name}', study['arms'][name]
    _check_keys(key, arm, 'config options grid choice_of override about metric')
    config = arm.get('config', study.get('config'))
    if config is None:
        raise ConfigError(f'{key}.config', 'is missing', 'Set it here or for the whole study.')
    chosen_by = arm.get('choice_of', name)
    if chosen_by not in study['arms']:
        raise ConfigError(f'{key}.choice_of', 'must be the name of another arm', found=chosen_by)
    if 'choice_of' in arm and 'grid' in arm:
        raise ConfigError(f'{key}.choice_of', 'excludes a grid', 'Delete one.', found=chosen_by)
    grid = study['arms'][chosen_by].get('grid', {})
    candidates = {}
    for candidate, chosen in _combinations(grid, f'arms.{chosen_by}.grid').items():
        layers = study.get('options', {}), arm.get('options', {}), chosen, arm.get('override', {})
        cfg = _config(here / config, *layers)
        candidates[candidate] = Candidate(cfg, _digest(config_text(cfg), prepare))
    metric = arm.get('metric', study.get('metric', METRIC))
    return Arm(name, arm.get('about', ''), metric, candidates, chosen_by)


def _config(path: Path, *options: Options) -> Config:
    """Return a config with options merged in their order; keys are those of ``--cfg-options``."""
    cfg = copy.deepcopy(_file(path.resolve(), work_root()))
    for some in options:
        cfg.merge_from_dict(copy.deepcopy(some))
    return cfg


@functools.cache
def _file(path: Path, root: Path) -> Config:
    """Read a config file, in which paths begin at the folder of all runs."""
    return Config.fromfile(path)


def _combinations(grid: Options, key: str) -> dict[str, Options]:
    """Return the product of the grid's axes, named by the values that differ."""
    axes = []
    for option, values in grid.items():
        if not isinstance(values, list | tuple | dict) or not values:
            raise ConfigError(
                f'{key}.{option}', 'must be a list of values or a dict of named ones', found=values
            )
        named = values if isinstance(values, dict) else {str(value): value for value in values}
        short = option.rpartition('.')[2]
        axes.append([(f'{short}={name}', {option: value}) for name, value in named.items()])
    return {
        ', '.join(name for name, _ in combination): {
            k: v for _, options in combination for k, v in options.items()
        }
        for combination in itertools.product(*axes)
    }


def _check_keys(where: str, found: Mapping[str, Any], known: str, needed: str = '') -> None:
    for name in found:
        if not name.startswith('_') and name not in known.split():
            nearest = nearest_names(name, known.split(), most=1)
            fix = f'The nearest is {nearest}; all are {known.replace(" ", ", ")}.'
            raise ConfigError(f'{where}.{name}'.lstrip('.'), 'is not a key of a study', fix)
    for name in needed.split():
        if name not in found:
            raise ConfigError(f'{where}.{name}'.lstrip('.'), 'is missing')


def _check_baseline(baseline: str | Mapping[str, str], arms: Mapping[str, Arm]) -> None:
    if isinstance(baseline, str):
        found = baseline in {name.rpartition('/')[2] for name in arms}
    else:
        settings = {name.rpartition('/')[0] for name in arms} - {''}
        found = (
            bool(settings)
            and baseline.keys() >= settings
            and all({arm, f'{setting}/{arm}'} & arms.keys() for setting, arm in baseline.items())
        )
    if not found:
        raise ConfigError(
            'baseline',
            'must be an arm, or a dict with an arm for each table',
            f'The arms are {", ".join(arms)}.',
            found=baseline,
        )


def _check_tuning(arms: Mapping[str, Arm], tune_seeds: tuple[int, ...], seeds: list[int]) -> None:
    if both := sorted(set(seeds) & set(tune_seeds)):
        raise ConfigError('tune_seeds', 'must not be among the reported seeds', found=both)
    for arm in arms.values():
        if arm.candidates.keys() != arms[arm.chosen_by].candidates.keys():
            raise ConfigError(
                f'arms.{arm.name}.choice_of',
                'must be an arm with its own grid',
                found=arm.chosen_by,
            )
    tuned = [arm.name for arm in arms.values() if len(arm.candidates) > 1]
    if tuned and not tune_seeds:
        raise ConfigError('tune_seeds', f'is missing, and arms have a grid: {", ".join(tuned)}')
