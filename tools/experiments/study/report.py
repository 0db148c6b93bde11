"""docs/results.md and its pictures, from the studies' lines alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.study.compare import Row, tables
from experiments.study.lines import Line, read_lines
from experiments.study.load import load_study
from experiments.study.picture import draw, metric_of
from experiments.study.plan import Study

HEAD = """# Results

Written by `python tools/study.py report` from the lines in `docs/results/*.jsonl`, one a finished run; do not edit.

± is the standard deviation over seeds, n the number of seeds. Δ is the mean of the paired differences to the baseline (the same
seeds), in brackets its 95% interval by Student's t; it is bold where the interval leaves out zero. The intervals are not corrected
for the number of arms: of twenty arms without any effect one is bold by chance. All metrics are those of the last epoch.
"""


def write_report(study_files: Sequence[Path], results: Path) -> Path:
    """Report every study that has lines; give the file written."""
    parts = [HEAD]
    for file in study_files:
        lines = read_lines(results / f'{file.stem}.jsonl')
        if lines:
            study = load_study(file)
            draw(study, tables(study, lines), results / f'{study.name}.png')
            parts.append(study_text(study, lines, results.name))
    target = results.parent / 'results.md'
    target.write_text('\n'.join(parts))
    return target


def study_text(study: Study, lines: Sequence[Line], folder: str) -> str:
    """One study as Markdown."""
    found = tables(study, lines)
    seconds = sum(line['seconds'] for line in lines)
    versions = {
        name: sorted({line['versions'][name] for line in lines if name in line['versions']})
        for name in SHOWN
    }
    named = ', '.join(f'{name} {" / ".join(values)}' for name, values in versions.items() if values)
    parts = [f'## {study.name}', f'**{study.question}**', study.about.strip()]
    for setting, rows in found.items():
        parts += [
            f'### {setting}' if setting else '',
            table(rows, study.baseline_of(setting), metric_of(study), list(study.columns)),
        ]
    parts += [f'![{study.name}]({folder}/{study.name}.png)']
    parts += [
        f'{len(lines)} runs, tuning included, {seconds / 3600:.1f} hours of one core each; {named}.'
    ]
    return '\n\n'.join(part for part in parts if part) + '\n'


SHOWN = ('mmkd_plugin', 'torch', 'mmengine', 'mmpretrain', 'mmdet')


def table(rows: Sequence[Row], baseline: str, metric: str, columns: Sequence[str] = ()) -> str:
    """The arms of one setting, as a Markdown table."""
    heads = [
        'arm',
        '',
        'n',
        f'test {metric}',
        f'Δ to {baseline}',
        *columns,
        'chosen by validation',
        's a run',
    ]
    timed = any(row.step_seconds is not None for row in rows)
    heads += ['s a step'] * timed
    lines = [f'| {" | ".join(heads)} |', '|---' * len(heads) + '|']
    for row in rows:
        found = [
            _mean_and_spread(row.columns[name]) if name in row.columns else '' for name in columns
        ]
        cells = [
            row.arm,
            row.about,
            len(row.scores),
            _mean_and_spread(list(row.scores.values())),
            _difference(row),
        ]
        cells += [*found, row.candidate, f'{row.seconds:.0f}']
        if timed:
            cells.append('' if row.step_seconds is None else f'{row.step_seconds:.3f}')
        lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f' ± {np.std(values, ddof=1):.2f}' if len(values) > 1 else ''
    return f'{np.mean(values):.2f}{spread}'


def _difference(row: Row) -> str:
    if row.difference is None:
        return ''
    difference = row.difference
    text = f'{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]'
    if difference.n < len(row.scores):
        text += f' (n {difference.n})'
    return (f'**{text}**' if difference.clear else text).replace('-', '−')
