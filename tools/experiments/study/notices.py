"""List what a study's HTML page lacks: arms, curves and logs, and the commands to make them."""

import shlex
from collections.abc import Sequence

from experiments.study.compare import arms_without_lines
from experiments.study.curves import history
from experiments.study.folders import NO_FOLDER, RunFiles
from experiments.study.lines import Line
from experiments.study.plan import Study

NOTHING = 'No run has its folder on this machine, so the page has no curves and no links to logs.'
AGAIN = """Training makes them. This trains the study again, with results of its own:

```
python tools/study.py run {study} --results work_dirs/results
python tools/study.py report {study} --html --results work_dirs/results
```
"""
ONCE = 'Validation ran once in each run: its values are in the tables, and there is no curve.'


def notices(study: Study, name: str, lines: Sequence[Line], files: Sequence[RunFiles]) -> list[str]:
    """Return a paragraph of Markdown for each thing that is missing.

    Args:
        study: The study.
        name: Its name on the command line.
        lines: All lines.
        files: The files of each line's run.
    """
    found = [
        f'Arm without results: `{arm}` ({study.arms[arm].about or "no description"}).'
        for arm in arms_without_lines(study, lines)
    ]
    if any(each.missing for each in files):
        nothing = all(each.missing == NO_FOLDER for each in files)
        listed = NOTHING if nothing else _missing(lines, files)
        found.append(f'{listed}\n\n{AGAIN.format(study=shlex.quote(name))}')
    validated = [history(each.records).validation for each in files if each.records]
    if validated and all(len(points) < 2 for run in validated for points in run.values()):
        found.append(ONCE)
    return found


def _missing(lines: Sequence[Line], files: Sequence[RunFiles], most: int = 10) -> str:
    """Return the incomplete runs by reason; of many only the number."""
    runs: dict[str, dict[str, list[str]]] = {}  # seeds by reason and run
    for line, each in zip(lines, files, strict=True):
        if each.missing:
            run = ' '.join(part for part in (line['arm'], line['candidate']) if part)
            runs.setdefault(each.missing, {}).setdefault(run, []).append(str(line['seed']))
    count = sum(bool(each.missing) for each in files)
    text = f'The curves or the log of {count} of {len(files)} runs are not on this machine:\n'
    for reason, seeds_of in runs.items():
        named = [f'`{run}` seed {", ".join(seeds)}' for run, seeds in seeds_of.items()]
        if len(named) > most:
            number = sum(map(len, seeds_of.values()))
            named = [f'{number} runs; the column *files* of the runs names them']
        text += f'\n- {reason}: {"; ".join(named)}'
    return text
