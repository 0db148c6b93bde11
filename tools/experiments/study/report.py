"""Write docs/results.md and its pictures from the studies' lines alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.study.cells import table_cells
from experiments.study.compare import Row, arms_without_lines, tables
from experiments.study.lines import Line, read_lines
from experiments.study.load import load_study
from experiments.study.picture import draw, metric_of
from experiments.study.plan import Study

#: For the Markdown report and for the HTML page.
MEANING = """\
± is the standard deviation over seeds, n the number of seeds. Δ is the mean of the paired
differences to the baseline (the same seeds), in brackets its 95% interval by Student's t. It is
bold if the interval excludes zero. The intervals are not corrected for the number of arms: among
twenty arms without any effect, one is bold by chance. All metrics are those of the last epoch.
Seconds are medians. On a busy machine compare the CPU seconds: a training has one thread.
"""
HEAD = f"""# Results

`python tools/study.py report` writes this page from the lines in `docs/results/*.jsonl`, one for
each finished run. Do not edit it.

{MEANING}"""
VERSIONS = ('mmkd_plugin', 'torch', 'mmengine', 'mmpretrain', 'mmdet')


def write_report(
    study_files: Sequence[Path], results: Path, say: Callable[[str], object] = print
) -> Path:
    """Report every study that has lines, and return the file written.

    Args:
        study_files: The study files, in the order of the report.
        results: Folder of the lines. The report goes beside it.
        say: Prints which studies and arms have no results.
    """
    parts = [HEAD]
    for file in study_files:
        lines = read_lines(results / f'{file.stem}.jsonl')
        if not lines:
            say(f'{file.stem}: no results, left out')
            continue
        study = load_study(file)
        for arm in arms_without_lines(study, lines):
            say(f'{study.name}: arm {arm} has no results')
        draw(study, tables(study, lines), results / f'{study.name}.png')
        parts.append(study_text(study, lines, results.name))
    target = results.parent / 'results.md'
    target.write_text('\n'.join(parts))
    return target


def study_text(study: Study, lines: Sequence[Line], folder: str) -> str:
    """Return one study as Markdown."""
    seconds = sum(line['seconds'] for line in lines)
    versions = {
        name: sorted({line['versions'][name] for line in lines if name in line['versions']})
        for name in VERSIONS
    }
    named = ', '.join(f'{name} {" / ".join(values)}' for name, values in versions.items() if values)
    parts = [f'## {study.name}', f'**{study.question}**', study.about.strip()]
    for setting, rows in tables(study, lines).items():
        parts += [
            f'### {setting}' if setting else '',
            table(rows, study.baseline_of(setting), metric_of(study), list(study.columns)),
        ]
    parts += [
        f'Arm without results: `{name}` ({study.arms[name].about or "no description"}).'
        for name in arms_without_lines(study, lines)
    ]
    parts += [f'![{study.name}]({folder}/{study.name}.png)']
    parts += [
        f'{len(lines)} runs, tuning included, {seconds / 3600:.1f} hours of one core each; {named}.'
    ]
    return '\n\n'.join(part for part in parts if part) + '\n'


def table(rows: Sequence[Row], baseline: str, metric: str, columns: Sequence[str] = ()) -> str:
    """Return the arms of one setting as a Markdown table."""
    heads, body = table_cells(rows, baseline, metric, columns)
    lines = [f'| {" | ".join(heads)} |', '|---' * len(heads) + '|']
    lines += [
        f'| {" | ".join(f"**{cell.text}**" if cell.clear else cell.text for cell in cells)} |'
        for cells in body
    ]
    return '\n'.join(lines)
