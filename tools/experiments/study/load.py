"""Reading a study file: its configs resolved, its mistakes told before anything is trained."""

import copy
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from experiments.study.plan import Arm, Candidate, Study, named_stages
from mmkd_plugin.engine.stages import Stage, config_text, sha256, work_root
from mmkd_plugin.errors import positive_number

Options = dict[str, Any]
METRIC = 'accuracy/top1'


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        ValueError: If a key is unknown or missing, the scale not positive, the baseline no arm, tuning lacks seeds, or a seed serves both
            tuning and the report.
    """
    root = work_root()
    raw = Config.fromfile(path).to_dict()
    needed = {'question', 'baseline', 'seeds', 'arms'}
    _check_keys(
        raw,
        needed
        | {'about', 'metric', 'scale', 'columns', 'tune_seeds', 'prepare', 'config', 'options'},
        needed,
        str(path),
    )
    prepare: dict[str, Stage] = {}
    for name, stage in raw.get('prepare', {}).items():  # in order: a stage may need those before it
        prepare[name] = _stage(name, stage, path.parent, root, prepare)
    arms = {name: _arm(name, raw, path.parent, prepare) for name in raw['arms']}
    _check_baseline(raw['baseline'], arms)
    tune_seeds = tuple(raw.get('tune_seeds', ()))
    if both := sorted(set(raw['seeds']) & set(tune_seeds)):
        raise ValueError(
            f'tune_seeds: expected seeds that are not reported, got {both} in seeds as well'
        )
    for arm in arms.values():
        if arm.candidates.keys() != arms[arm.chosen_by].candidates.keys():
            raise ValueError(
                f'arms.{arm.name}.choice_of: expected an arm with a grid of its own, got {arm.chosen_by}'
            )
    if not tune_seeds and (tuned := [arm.name for arm in arms.values() if len(arm.candidates) > 1]):
        raise ValueError(f'tune_seeds: expected some, for the arms {tuned} have a grid; got none')
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


def _check_baseline(baseline: str | Mapping[str, str], arms: Mapping[str, Arm]) -> None:
    if isinstance(baseline, str):
        found = baseline in {name.rpartition('/')[2] for name in arms}
    else:
        settings = {name.rpartition('/')[0] for name in arms} - {''}
        found = baseline.keys() == settings and all(
            {arm, f'{where}/{arm}'} & arms.keys() for where, arm in baseline.items()
        )
    if not found:
        raise ValueError(
            f'baseline: expected one of the arms {list(arms)}, or one for each table, got {baseline!r}'
        )


def _stage(
    name: str, stage: dict[str, Any], here: Path, root: Path, earlier: Mapping[str, Stage]
) -> Stage:
    _check_keys(stage, {'config', 'options'}, {'config'}, f'prepare.{name}')
    cfg = _config(here / stage['config'], stage.get('options', {}))
    digest = _digest(config_text(cfg), earlier)
    cfg.work_dir = str(root / name)
    return Stage(cfg, digest)


def _digest(text: str, prepare: Mapping[str, Stage]) -> str:
    """Of a config and of the stages that it names: a changed teacher makes another run."""
    return sha256(
        '\n'.join([text, *(prepare[name].sha256 for name in named_stages(text, prepare))])
    )


def _arm(name: str, study: dict[str, Any], here: Path, prepare: Mapping[str, Stage]) -> Arm:
    arm = study['arms'][name]
    _check_keys(
        arm,
        {'config', 'options', 'grid', 'choice_of', 'override', 'about', 'metric'},
        set(),
        f'arms.{name}',
    )
    config = arm.get('config', study.get('config'))
    if config is None:
        raise ValueError(
            f'arms.{name}.config: expected a config, here or for the whole study, got none'
        )
    chosen_by = arm.get('choice_of', name)
    if chosen_by not in study['arms'] or ('choice_of' in arm and 'grid' in arm):
        raise ValueError(
            f'arms.{name}.choice_of: expected another arm, and no grid beside it, got {chosen_by!r}'
        )
    candidates = {}
    for candidate, chosen in _combinations(
        study['arms'][chosen_by].get('grid', {}), f'arms.{chosen_by}.grid'
    ).items():
        cfg = _config(
            here / config,
            study.get('options', {}),
            arm.get('options', {}),
            chosen,
            arm.get('override', {}),
        )
        candidates[candidate] = Candidate(cfg, _digest(config_text(cfg), prepare))
    metric = arm.get('metric', study.get('metric', METRIC))
    return Arm(name, arm.get('about', ''), metric, candidates, chosen_by)


def _config(path: Path, *options: Options) -> Config:
    """A config with options laid over it, in this order; keys are dotted, as in ``--cfg-options``."""
    cfg = copy.deepcopy(_file(path.resolve()))
    for some in options:
        cfg.merge_from_dict(copy.deepcopy(some))
    return cfg


@functools.cache
def _file(path: Path) -> Config:
    return Config.fromfile(path)


def _combinations(grid: dict[str, Any], key: str) -> dict[str, Options]:
    """The product of the grid's axes, each a list of values or a dict of named ones; named after what differs."""
    axes = []
    for option, values in grid.items():
        if not isinstance(values, list | tuple | dict) or not values:
            raise ValueError(
                f'{key}.{option}: expected a list of values, or a dict of named ones, got {values!r}'
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


def _check_keys(found: Mapping[str, Any], known: set[str], needed: set[str], where: str) -> None:
    names = {name for name in found if not name.startswith('_')}
    if names - known or needed - names:
        raise ValueError(
            f'{where}: expected keys from {sorted(known)}, at least {sorted(needed)}, got {sorted(names)}'
        )
