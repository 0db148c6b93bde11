"""The table of all runs of a study: a row for each line, with links to its log and its records."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.progress import duration
from experiments.study.cells import Cell, number_cell
from experiments.study.compare import reported_lines
from experiments.study.folders import RunFiles
from experiments.study.lines import Line
from experiments.study.plan import Study

HEADS = ('arm', 'seed', 'role', 'candidate', 'counts', 'val', 'test', 's', 'CPU s')


def run_table(
    study: Study, lines: Sequence[Line], files: Sequence[RunFiles], link: Callable[[Path], str]
) -> dict[str, Any]:
    """Return heads, cells and links of the table.

    Args:
        study: The study.
        lines: All lines.
        files: The files of each line's run.
        link: Returns the address of a file.
    """
    counted = {id(line) for arm in study.arms for line in reported_lines(arm, lines)}
    different = [name for name, values in _versions(lines).items() if len(values) > 1]
    body, links = [], []
    for line, found in zip(lines, files, strict=True):
        arm = study.arms.get(line['arm'])
        metric = arm.metric if arm else study.metric
        scores = [_scaled(study, line.get(split, {}).get(metric)) for split in ('val', 'test')]
        body.append(
            [
                Cell(line['arm']),
                Cell(str(line['seed']), line['seed']),
                Cell(line['role']),
                Cell(line['candidate']),
                Cell('yes' if id(line) in counted else _reason(study, line)),
                *(number_cell(score, 2) for score in scores),
                number_cell(line['seconds'], 1),
                number_cell(line.get('cpu_seconds'), 1),
                *(Cell(line['versions'].get(name, '')) for name in different),
            ]
        )
        paths = (('log', found.log), ('scalars', found.scalars))
        links.append(
            [(text, link(path)) for text, path in paths if path]
            + [(reason, '') for reason in [found.missing] if reason]
        )
    return {
        'name': 'runs',
        'heads': [*HEADS, *different, 'files'],
        'body': body,
        'links': links,
    }


def runs_text(lines: Sequence[Line]) -> str:
    """Return the number of runs, their time, and the versions that all of them share."""
    time = duration(sum(line['seconds'] for line in lines))
    shared = [
        f'{name} {values[0]}' for name, values in _versions(lines).items() if len(values) == 1
    ]
    return (
        f'{len(lines)} runs, tuning included, {time} in all. The tables above count those with '
        f'"yes". Versions of all runs: {", ".join(shared) or "none"}.'
    )


def _scaled(study: Study, value: float | None) -> float | None:
    return None if value is None else study.scale * value


def _versions(lines: Sequence[Line]) -> dict[str, list[str]]:
    """Return the versions of each package; an empty one for lines without it."""
    names = dict.fromkeys(name for line in lines for name in line['versions'])
    return {
        name: list(dict.fromkeys(line['versions'].get(name, '') for line in lines))
        for name in names
    }


def _reason(study: Study, line: Line) -> str:
    if line['role'] == 'tune':
        return 'no: tuning'
    return 'no: run again since' if line['arm'] in study.arms else 'no: no arm of the study'
