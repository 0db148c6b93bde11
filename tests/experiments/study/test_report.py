import json
from pathlib import Path
from typing import Any

import pytest
from experiments.study.compare import paired_difference, tables
from experiments.study.load import load_study
from experiments.study.report import write_report
from helpers.toy_run import write_config

STUDY = """
question = 'Does it help?'
about = 'Toys.'
metric = 'toy/accuracy'
baseline = 'mean'
config = 'toy.py'
seeds = [0, 1, 2]
arms = {
    'alone': dict(about='labels alone'),
    'weak/mean': dict(),
    'weak/new': dict(about='ours'),
    'strong/mean': dict(),
}
"""


def line(arm: str, seed: int, score: float, **more: Any) -> dict[str, Any]:
    return {
        'study': 'study',
        'arm': arm,
        'seed': seed,
        'role': 'report',
        'candidate': '',
        'config_sha256': 'now',
        'seconds': 10.0,
        'test': {'toy/accuracy': score},
        'versions': {'torch': '2.9.1'},
        **more,
    }


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    write_config(tmp_path / 'toy.py')
    (tmp_path / 'study.py').write_text(STUDY)
    return tmp_path / 'study.py'


def test_paired_difference_three_pairs_gives_students_interval() -> None:
    # Differences 1, 2, 3: mean 2, sample deviation 1, standard error 1/sqrt(3). t(0.975) with 2
    # degrees of freedom is 4.30265, so the half width is 4.30265 / 1.73205 = 2.48414. Seed 7 has no
    # partner.
    difference = paired_difference(
        {0: 11.0, 1: 22.0, 2: 33.0, 7: 99.0}, {0: 10.0, 1: 20.0, 2: 30.0}
    )
    assert difference is not None
    assert (difference.mean, difference.n) == (2.0, 3)
    assert (difference.low, difference.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert not difference.clear


def test_paired_difference_without_spread_has_an_interval_of_no_width() -> None:
    difference = paired_difference({0: 11.0, 1: 21.0}, {0: 10.0, 1: 20.0})
    assert difference is not None
    assert (difference.low, difference.high, difference.clear) == (1.0, 1.0, True)


def test_paired_difference_one_pair_is_none() -> None:
    assert paired_difference({0: 11.0}, {0: 10.0}) is None


def test_tables_arm_without_setting_stands_in_each(study_file: Path) -> None:
    lines = [
        line(arm, seed, 70.0 + seed)
        for arm in ('alone', 'weak/mean', 'strong/mean')
        for seed in (0, 1)
    ]
    found = tables(load_study(study_file), lines)
    assert {setting: [row.arm for row in rows] for setting, rows in found.items()} == {
        'weak': ['alone', 'mean'],  # weak/new has not been run yet
        'strong': ['alone', 'mean'],
    }
    alone, mean = found['weak']
    assert alone.difference is not None
    assert mean.difference is None
    assert mean.mean == pytest.approx(70.5)


def test_write_report_shows_an_arms_own_metric_and_further_columns(
    study_file: Path, tmp_path: Path
) -> None:
    more = "arms['weak/new']['metric'] = 'mean/toy'\ncolumns = dict(both='both/toy')\n"
    study_file.write_text(study_file.read_text() + more)
    two = {'mean/toy': 75.0, 'both/toy': 80.0}
    lines = [line('weak/mean', seed, 70.0) for seed in (0, 1)]
    lines += [
        line('weak/new', seed, 0.0, test={name: value + seed for name, value in two.items()})
        for seed in (0, 1)
    ]
    (tmp_path / 'study.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in lines))
    text = write_report([study_file], tmp_path).read_text()
    assert (
        '| arm |  | n | test toy/accuracy | Δ to mean | both | chosen by validation | s a run |'
        in text
    )
    assert '| mean |  | 2 | 70.00 ± 0.00 |  |  |  | 10 |' in text
    assert (
        '| new | ours | 2 | 75.50 ± 0.71 | +5.50 [−0.85, +11.85] | 80.50 ± 0.71 |  | 10 |' in text
    )  # t(0.975), 1: 12.706


def test_tables_a_baseline_for_each_table(study_file: Path) -> None:
    text = study_file.read_text().replace(
        "baseline = 'mean'", "baseline = dict(weak='alone', strong='mean')"
    )
    study_file.write_text(text)
    lines = [
        line(arm, seed, 70.0 + seed)
        for arm in ('alone', 'weak/mean', 'strong/mean')
        for seed in (0, 1)
    ]
    found = tables(load_study(study_file), lines)
    assert {
        setting: [row.arm for row in rows if row.difference is None]
        for setting, rows in found.items()
    } == {
        'weak': ['alone'],
        'strong': ['mean'],
    }


def test_tables_count_reported_lines_of_the_newest_config_only(study_file: Path) -> None:
    lines = [
        line('alone', 0, 10.0, config_sha256='once'),
        line('alone', 1, 10.0, config_sha256='once'),
        line('alone', 0, 80.0),
        line('alone', 5, 20.0, role='tune'),
        line('gone', 0, 30.0),
    ]
    (row,) = tables(load_study(study_file), lines)['weak']
    assert row.scores == {0: 80.0}


def test_write_report_uses_the_lines_alone(study_file: Path, tmp_path: Path) -> None:
    results = tmp_path / 'docs/results'
    results.mkdir(parents=True)
    lines = [line('weak/mean', seed, 70.0 + seed) for seed in range(3)]
    lines += [line('weak/new', seed, 72.0 + 1.5 * seed, candidate='lr=0.1') for seed in range(3)]
    (results / 'study.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in lines))
    (tmp_path / 'unrun.py').write_text(STUDY)
    said: list[str] = []
    text = write_report([study_file, tmp_path / 'unrun.py'], results, said.append).read_text()
    assert said == [
        'study: arm alone has no results',
        'study: arm strong/mean has no results',
        'unrun: no results, left out',
    ]
    assert 'Arm without results: `alone` (labels alone).' in text
    assert 'Arm without results: `strong/mean` (no description).' in text
    assert '## study\n\n**Does it help?**\n\nToys.' in text
    assert '| mean |  | 3 | 71.00 ± 1.00 |  |  | 10 |' in text
    # Differences 2, 2.5, 3: half width 0.5 * 2.48414 (see above), and zero is left out.
    assert '| new | ours | 3 | 73.50 ± 1.50 | **+2.50 [+1.26, +3.74]** | lr=0.1 | 10 |' in text
    assert 'unrun' not in text
    assert '(results/study.png)' in text
    assert (results / 'study.png').read_bytes().startswith(b'\x89PNG')


def test_write_report_scales_metrics_and_shows_known_step_times(
    study_file: Path, tmp_path: Path
) -> None:
    study_file.write_text(study_file.read_text() + 'scale = 100\n')
    lines = [line(arm, 0, 0.7 + part) for arm, part in (('weak/mean', 0.0), ('weak/new', 0.125))]
    lines[0]['step_seconds'] = 0.0625
    for one, seconds in zip(lines, (8.4, 9.0), strict=True):
        one['cpu_seconds'] = seconds
    results = tmp_path / 'results'
    results.mkdir()
    (results / 'study.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    text = write_report([study_file], results).read_text()
    assert '| test 100 · toy/accuracy |' in text and '| CPU s a run | s a step |' in text
    assert '| mean |  | 1 | 70.00 |  |  | 10 | 8 | 0.062 |' in text
    assert '| new | ours | 1 | 82.50 |  |  | 10 | 9 |  |' in text


def test_baseline_may_name_a_table_of_the_shared_arms_alone(study_file: Path) -> None:
    baselines = "dict(weak='mean', strong='mean', to_alone='alone')"
    changed = STUDY.replace("'mean'\nconfig", f'{baselines}\nconfig')
    study_file.write_text(f"{changed}arms['more'] = dict()\n")
    lines = [line('alone', seed, 10.0) for seed in (0, 1)]
    lines += [line('more', seed, 12.0) for seed in (0, 1)] + [line('weak/mean', 0, 11.0)]
    rows = tables(load_study(study_file), lines)['to_alone']
    assert [row.arm for row in rows] == ['alone', 'more']
    assert rows[1].difference is not None and rows[1].difference.mean == 2.0
