"""Run a study, arms by seeds, and report it.

    python tools/study.py run configs/studies/adaptive_teachers.py --jobs 2
    python tools/study.py report

Every finished run is one line of docs/results/NAME.jsonl, and the report is made from these lines alone: a study that was
broken off goes on where it was. How to write a study: docs/studies.md.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault(
    'OMP_NUM_THREADS', '1'
)  # read when numpy and torch are imported: a run has one core

from experiments.study.load import load_study
from experiments.study.report import write_report
from experiments.study.run import StudyRunner, default_jobs
from mmengine.logging import MMLogger
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent


def parse_args() -> argparse.Namespace:
    """Two commands, run and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run', help='train what has no line yet')
    run.add_argument('study', type=Path, help='the study file')
    run.add_argument(
        '--jobs', type=int, default=default_jobs(), help='trainings at once (default: one a core)'
    )
    run.add_argument('--arms', nargs='+', default=[], help='only these arms')
    run.add_argument(
        '--seeds', nargs='+', type=int, default=[], help="only these of the study's seeds"
    )
    run.add_argument('--dry-run', action='store_true', help='only tell what would be trained')
    report = commands.add_parser('report', help='write docs/results.md and its pictures')
    report.add_argument(
        'studies', nargs='*', type=Path, default=sorted((ROOT / 'configs/studies').glob('*.py'))
    )
    for command in (run, report):
        command.add_argument(
            '--results', type=Path, default=ROOT / 'docs/results', help='the folder of the lines'
        )
    return parser.parse_args()


def run(args: argparse.Namespace) -> int:
    """Run a study; the exit code says whether all of it succeeded."""
    console = Console()
    study = load_study(args.study)
    runner = StudyRunner(
        study, args.results / f'{study.name}.jsonl', args.jobs, args.arms, args.seeds
    )
    for phase, (missing, total) in runner.counts().items():
        console.print(f'{phase}: {missing} of {total} trainings are missing', highlight=False)
    if args.dry_run:
        return 0
    failures = runner.execute(console)
    for failure in failures:
        console.print(f'FAILED {failure}', highlight=False, soft_wrap=True)
    return 1 if failures else 0


def main() -> None:
    """Run or report; ended from outside, it ends its trainings first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = parse_args()
    MMLogger.get_current_instance().setLevel(
        'WARNING'
    )  # it tells of every environment variable in a config
    if args.command == 'report':
        write_report(args.studies, args.results)
    else:
        try:
            sys.exit(run(args))
        except KeyboardInterrupt:
            sys.exit('Interrupted. The finished runs are kept; the same command goes on.')


if __name__ == '__main__':
    main()
