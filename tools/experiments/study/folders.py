"""Find the folders of a study's runs on this machine: their logs, and the records of training."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.study.curves import Record, read_records
from experiments.study.lines import Line
from mmkd_plugin.engine.stages import work_root

NO_FOLDER = 'no folder on this machine'
OTHER_RUN = 'its folder holds another run'
NO_CURVES = 'its folder holds no curves'
NO_LOG = 'its folder holds no log'
#: MMEngine logs a mean over the last iterations for these, not the value of the evaluator.
SMOOTHED = re.compile('loss|time|grad_norm')


@dataclass(frozen=True)
class RunFiles:
    """The files of one run.

    Args:
        log: Everything that the run printed; None if it is not on this machine.
        scalars: MMEngine's records of training and validation; None if they are not.
        records: Content of ``scalars``.
        missing: Reason for which a file is missing; empty if none is.
    """

    log: Path | None = None
    scalars: Path | None = None
    records: Sequence[Record] = field(default=(), repr=False)
    missing: str = ''


def study_folder(study: str) -> Path:
    """Return the folder of a study's runs."""
    return work_root() / 'studies' / study


def run_folder(study: str, arm: str, candidate: str, seed: int) -> Path:
    """Return the folder of a run. A later run of the same arm, candidate and seed shares it."""
    return study_folder(study) / arm / candidate.replace('/', '_') / f'seed_{seed}'


def find_files(study: str, lines: Sequence[Line]) -> list[RunFiles]:
    """Return the files of the run of each line.

    Lines come from other machines too, and a folder keeps the records of each attempt at its run.
    So an attempt belongs to the newest line whose values its last validation has.
    """
    found: list[RunFiles] = []
    claimed: set[Path | None] = set()
    for line in reversed(lines):
        folder = run_folder(study, line['arm'], line['candidate'], line['seed'])
        found.append(_files(folder, line, claimed))
        claimed |= {found[-1].log, found[-1].scalars}
    return found[::-1]


def other_logs(study: str, files: Sequence[RunFiles]) -> list[Path]:
    """Return the logs that belong to no line: of teachers, and of failed or unfinished runs."""
    folder = study_folder(study)
    logs = sorted(folder.glob('prepare *.log')) + sorted(folder.rglob('run.log'))
    known = {each.log for each in files}
    return [log for log in logs if log not in known]


def _files(folder: Path, line: Line, claimed: Collection[Path | None]) -> RunFiles:
    log = folder / 'run.log'  # of the newest attempt; MMEngine's own logs are kept for each
    attempts = sorted((path.parent for path in folder.glob('*/vis_data')), reverse=True)
    if not attempts and not log.is_file():
        return RunFiles(missing=NO_FOLDER)
    recorded = False
    for attempt in attempts:
        scalars = attempt / 'vis_data/scalars.json'
        records = read_records(scalars) if scalars.is_file() else []
        recorded |= bool(records)
        if records and scalars not in claimed and _agrees(records, line):
            own = log if attempt == attempts[0] else attempt / f'{attempt.name}.log'
            if own.is_file():
                return RunFiles(own, scalars, records)
            return RunFiles(None, scalars, records, NO_LOG)
    if recorded or log in claimed:
        return RunFiles(missing=OTHER_RUN)
    return RunFiles(log if log.is_file() else None, missing=NO_CURVES)


def _agrees(records: Sequence[Record], line: Line) -> bool:
    """Return whether the last records of the validation metrics are those of the line."""
    last = {name: value for record in records for name, value in record.items()}
    return all(
        math.isclose(last[name], value, abs_tol=1e-4, rel_tol=1e-6)  # lines have four decimals
        for name, value in line.get('val', {}).items()
        if name in last and not SMOOTHED.search(name)
    )
