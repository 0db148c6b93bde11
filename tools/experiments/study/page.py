"""Write a study as one HTML page: tables that sort, intervals, curves, and links to all logs.

The page needs no network. Plotly draws it, and DataTables, which the package itables ships, sorts.
"""

import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import itables.options
from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from plotly.offline import get_plotlyjs

from experiments.study.cells import table_cells
from experiments.study.compare import Row, arms_of, reported_lines, tables
from experiments.study.curves import bands, history
from experiments.study.figures import curve_figure, figure_html, interval_figure
from experiments.study.folders import RunFiles, find_files, other_logs, study_folder
from experiments.study.lines import Line, read_lines
from experiments.study.load import load_study
from experiments.study.notices import notices
from experiments.study.picture import metric_of
from experiments.study.plan import Study
from experiments.study.report import MEANING
from experiments.study.run_table import run_table, runs_text
from mmkd_plugin.errors import ConfigError


def page_path(file: Path, where: str, studies: int = 1) -> Path:
    """Return the path of a study's page.

    Args:
        file: The study file.
        where: The page, if it ends with ``.html``; else a folder, in which it is ``NAME.html``. If
            empty, the page is ``report.html`` in the folder of the study's runs.
        studies: Number of studies that are reported.

    Raises:
        ConfigError: If several studies have one page.
    """
    if not where:
        return study_folder(file.stem) / 'report.html'
    if Path(where).suffix != '.html':
        return Path(where) / f'{file.stem}.html'
    if studies > 1:
        problem = f'is one page, and {studies} studies are reported'
        raise ConfigError('--html', problem, 'Name a folder, or one study.', found=where)
    return Path(where)


def write_page(
    file: Path, name: str, results: Path, target: Path, say: Callable[[str], object] = print
) -> None:
    """Write the page of a study, if it has results.

    Args:
        file: The study file.
        name: Name of the study on the command line.
        results: Folder of the lines.
        target: The page. Its links are relative to it.
        say: Prints the path of the page, or that the study has no results.
    """
    lines = read_lines(results / f'{file.stem}.jsonl')
    if not lines:
        say(f'{file.stem}: no results, left out')
        return
    text = page(load_study(file), name, lines, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    say(f'-> {target}')


def page(study: Study, name: str, lines: Sequence[Line], target: Path) -> str:
    """Return the page of a study as HTML."""
    files = find_files(study.name, lines)
    markdown = MarkdownIt('commonmark', {'html': False})

    def link(path: Path) -> str:
        return quote(os.path.relpath(path.resolve(), target.parent.resolve()))

    folder = study_folder(study.name)
    bundle = Path(itables.options.dt_bundle)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template('page.html.j2').render(
        study=study,
        about=markdown.render(study.about),
        meaning=markdown.render(MEANING),
        notices=[markdown.render(each) for each in notices(study, name, lines, files)],
        settings=[
            _setting(study, number, setting, rows, lines, files)
            for number, (setting, rows) in enumerate(tables(study, lines).items())
        ],
        runs=run_table(study, lines, files, link),
        runs_text=runs_text(lines),
        other_logs=[
            (str(log.relative_to(folder)), link(log)) for log in other_logs(study.name, files)
        ],
        plotly=get_plotlyjs(),
        table_script=b64encode(bundle.read_bytes()).decode(),
        table_style=bundle.with_suffix('.css').read_text(),
    )


def _setting(
    study: Study,
    number: int,
    setting: str,
    rows: Sequence[Row],
    lines: Sequence[Line],
    files: Sequence[RunFiles],
) -> dict[str, Any]:
    baseline, metric = study.baseline_of(setting), metric_of(study)
    heads, body = table_cells(rows, baseline, metric, list(study.columns))
    heads = [head or 'about' for head in heads]
    return {
        'name': setting,
        'table': {'name': f'table-{number}', 'heads': heads, 'body': body},
        'intervals': figure_html(interval_figure(rows, baseline, metric), f'intervals-{number}'),
        'curves': _curves(study, number, setting, lines, files),
    }


def _curves(
    study: Study, number: int, setting: str, lines: Sequence[Line], files: Sequence[RunFiles]
) -> list[tuple[str, str]]:
    """Return title and HTML of the figures that have curves."""
    records = {id(line): each.records for line, each in zip(lines, files, strict=True)}
    arms = {
        arm.rpartition('/')[2]: (
            study.arms[arm].metric,
            [
                history(records[id(line)])
                for line in reported_lines(arm, lines)
                if records[id(line)]
            ],
        )
        for arm in arms_of(study, setting)
    }
    validation = {
        arm: [_ordered(each.validation, metric, study) for each in runs]
        for arm, (metric, runs) in arms.items()
    }
    training = bands({arm: [each.training for each in runs] for arm, (_, runs) in arms.items()})
    total_first = dict(sorted(training.items(), key=lambda item: item[0] != 'loss'))
    units = sorted({each.unit for _, runs in arms.values() for each in runs})
    figures = []
    for title, unit, found in (
        ('Validation', ' or '.join(units), bands(validation, study.scale)),
        ('Training', 'iteration', total_first),
    ):
        if found:
            figure = curve_figure(found, list(arms), study.baseline_of(setting), unit)
            head = f'{title}: mean, minimum and maximum over seeds'
            figures.append((head, figure_html(figure, f'{title.lower()}-{number}')))
    return figures


def _ordered(quantities: Any, metric: str, study: Study) -> dict[str, Any]:
    """Return the quantities under the names of the tables; first the metric that is compared."""
    others = {metric_of(study, name): points for name, points in quantities.items()}
    return {metric_of(study): quantities[metric], **others} if metric in quantities else others
