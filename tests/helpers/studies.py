"""A study with results and run folders that no training made."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.study.folders import run_folder

from helpers.toy_run import write_config

METRIC = 'toy/accuracy'
STUDY = f"""
question = 'Does it help?'
about = 'Toys, **three** arms.'
metric = '{METRIC}'
columns = dict(both='both/toy')
baseline = 'plain'
config = 'toy.py'
seeds = [2, 10, 100]
tune_seeds = [7]
arms = {{
    'plain': dict(about='labels <alone>'),
    'large': dict(),
    'tuned': dict(grid={{'optim_wrapper.optimizer.lr': [0.1, 0.2]}}),
}}
"""


def write_study(folder: Path) -> Path:
    """Write the study file and its config."""
    write_config(folder / 'toy.py')
    (folder / 'toys.py').write_text(STUDY)
    return folder / 'toys.py'


def line(arm: str, seed: int, score: float, **more: Any) -> dict[str, Any]:
    """Return a line; its metrics are the score."""
    return {
        'study': 'toys',
        'arm': arm,
        'seed': seed,
        'role': 'report',
        'candidate': '',
        'config_sha256': 'now',
        'epochs': 3,
        'iterations': 12,
        'seconds': 10.0,
        'cpu_seconds': 9.0,
        'val': {METRIC: score},
        'test': {METRIC: score},
        'versions': {'torch': '2.9.1', 'commit': 'abc'},
        **more,
    }


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the results of the study."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(each) + '\n' for each in lines))


def write_run(
    each: Mapping[str, Any], timestamp: str = '20260101_000000', log: str = 'log'
) -> Path:
    """Write the folder of a line's run, as MMEngine does, and return it.

    Validation rises to the value of the line in three epochs of four iterations.
    """
    folder = run_folder('toys', each['arm'], each['candidate'], each['seed'])
    records: list[dict[str, Any]] = []
    for epoch in (1, 2, 3):
        step = 4 * epoch
        times = {'time': 0.1, 'data_time': 0.05}
        loss = {'lr': 0.1, 'loss': 3 / epoch + each['seed'] / 1000, 'loss_cls': 2 / epoch}
        records.append({**loss, **times, 'epoch': epoch, 'iter': step, 'step': step})
        values = {name: value * epoch / 3 for name, value in each['val'].items()}
        records.append({**values, **times, 'step': epoch})
    records.append(records[-1])  # validation after the training
    data = folder / timestamp / 'vis_data'
    data.mkdir(parents=True)
    (data / 'scalars.json').write_text(''.join(json.dumps(each) + '\n' for each in records))
    (folder / timestamp / f'{timestamp}.log').write_text(log)
    (folder / 'run.log').write_text(log)
    return folder
