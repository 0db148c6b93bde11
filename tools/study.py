"""Run a study, arms by seeds, and report it.

    python tools/study.py run detection --jobs 2
    python tools/study.py report
    python tools/study.py report detection --html

Every finished run is one line of docs/results/NAME.jsonl, and the report is made from these lines
alone. The HTML page has in addition the curves and logs of the runs that are on this machine. The
same command continues an interrupted study. docs/studies.md shows how to write one.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before numpy and torch: a run has one core

from experiments.pool import default_jobs, sigterm_exits
from experiments.study.load import find_study, load_study, study_files
from experiments.study.report import write_report
from experiments.study.run import StudyRunner
from mmengine.logging import MMLogger
from rich.console import Console

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.installed import has

ROOT = Path(__file__).resolve().parent.parent


def parse_args() -> argparse.Namespace:
    """Return the command, run or report, and its options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    names = ', '.join(path.stem for path in study_files())
    run = commands.add_parser('run', help='train the runs that have no line yet')
    run.add_argument('study', metavar='STUDY', help=f'{names}; or the path of a study file')
    run.add_argument(
        '--jobs', type=int, default=default_jobs(), help='trainings at once (default: one a core)'
    )
    run.add_argument('--arms', nargs='+', default=[], help='only these arms')
    run.add_argument(
        '--seeds', nargs='+', type=int, default=[], help="only these of the study's seeds"
    )
    run.add_argument('--dry-run', action='store_true', help='only count the missing runs')
    report = commands.add_parser(
        'report', help='write docs/results.md and its pictures, or HTML pages'
    )
    report.add_argument('studies', metavar='STUDY', nargs='*', help='as above (default: all)')
    report.add_argument(
        '--html',
        metavar='PATH',
        nargs='?',
        const='',
        help='write a page for each study, and not docs/results.md: PATH is a folder or one .html '
        'file (default: report.html in the folder of the runs)',
    )
    for command in (run, report):
        command.add_argument(
            '--results', type=Path, default=ROOT / 'docs/results', help='folder of the lines'
        )
    return parser.parse_args()


def run(args: argparse.Namespace) -> int:
    """Run a study, and return 1 if a run failed, else 0."""
    console = Console()
    study = load_study(find_study(args.study))
    runner = StudyRunner(
        study, args.results / f'{study.name}.jsonl', args.jobs, args.arms, args.seeds
    )
    for phase, (missing, total) in runner.counts().items():
        console.print(f'{phase}: {missing} of {total} trainings are missing', highlight=False)
    if args.dry_run:
        return 0
    failures = runner.execute(console)
    for failure in failures:
        console.print(f'FAILED {failure}', highlight=False, markup=False, soft_wrap=True)
    return 1 if failures else 0


def report(args: argparse.Namespace) -> int:
    """Write the report, and return 0."""
    names = args.studies or [path.stem for path in study_files()]
    if args.html is None:
        print(f'-> {write_report([find_study(name) for name in names], args.results)}')
    else:
        write_pages(names, args.results, args.html)
    return 0


def write_pages(names: Sequence[str], results: Path, where: str) -> None:
    """Write the HTML pages of studies.

    Args:
        names: Names or paths of the studies.
        results: Folder of the lines.
        where: Value of ``--html``.

    Raises:
        ConfigError: If a package is missing, or ``where`` cannot be a page or a folder of pages.
    """
    if missing := [name for name in ('plotly', 'itables') if not has(name)]:
        fix = "Run: pip install -c constraints.txt -e '.[report]'"
        problem = f'needs {" and ".join(missing)}, which cannot be imported'
        raise ConfigError('--html', problem, fix)
    if where in (path.stem for path in study_files()):
        fix = f'Write: report {where} --html'
        raise ConfigError('--html', 'must be a path, and this is a study', fix, found=where)
    from experiments.study.page import page_path, write_page

    files = [find_study(name) for name in names]
    targets = [page_path(file, where, len(files)) for file in files]
    for file, name, target in zip(files, names, targets, strict=True):
        write_page(file, name, results, target)


def main() -> None:
    """Run or report. A signal that ends the command ends its trainings first."""
    args = parse_args()
    # At INFO it logs every environment variable in a config.
    MMLogger.get_current_instance().setLevel('WARNING')
    try:
        with sigterm_exits():
            sys.exit(report(args) if args.command == 'report' else run(args))
    except ConfigError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit('Interrupted. The finished runs are kept, and the same command continues.')


if __name__ == '__main__':
    main()
