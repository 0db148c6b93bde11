"""The command line of a demo: its options, its first and last lines, and its exit code."""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from experiments.demo.plan import Demo
from experiments.demo.run import run_demo
from experiments.pool import default_jobs, sigterm_exits
from experiments.progress import duration
from mmkd_plugin.engine.stages import Stage, work_root


def demo_command(
    demo: Demo, description: str | None, report: Callable[[Console, Mapping[str, Stage]], None]
) -> int:
    """Run a demo from the command line. A signal that ends it ends its trainings first.

    Args:
        demo: The demo.
        description: Text of ``--help``.
        report: Prints the lines below the table.

    Returns:
        The exit code.
    """
    with sigterm_exits():
        return _run(demo, description, report)


def _run(
    demo: Demo, description: str | None, report: Callable[[Console, Mapping[str, Stage]], None]
) -> int:
    args = _parse_args(demo, description)
    # At INFO it logs every environment variable in a config.
    MMLogger.get_current_instance().setLevel('WARNING')
    console = Console(highlight=False, soft_wrap=True)
    root = Path(args.work_dir or work_root() / demo.name).absolute()
    stages = demo.load(root)
    began = time.monotonic()
    console.print(f'{demo.about}, {args.jobs} at once, into {root}')
    try:
        measured = run_demo(demo, stages, args.jobs, console)
    except RuntimeError as error:
        console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        console.print('Interrupted. The same command continues from here.')
        return 130
    console.print(f'\nDone in {duration(time.monotonic() - began)}.\n')
    console.print(table_of(demo, measured))
    report(console, stages)
    return 0


def table_of(demo: Demo, measured: Mapping[str, float]) -> Table:
    """Return all test metrics, and the students' differences to the one they are compared with."""
    table = Table('', demo.measure.title, demo.against_title, box=None, pad_edge=False)
    for teacher in demo.teachers:
        table.add_row(teacher.label, demo.measure.cell.format(measured[teacher.name]), '')
    for student in demo.students:
        difference = (
            f'{measured[student.name] - measured[demo.against]:+.1f}'
            if student.name != demo.against
            else ''
        )
        table.add_row(student.label, demo.measure.cell.format(measured[student.name]), difference)
    return table


def last_picture(stage: Stage, pattern: str) -> str:
    """Return the path of a training's newest picture that fits the pattern, or ``no picture``."""
    pictures = sorted(
        stage.folder.glob(f'*/vis_data/vis_image/{pattern}'), key=lambda path: path.stat().st_mtime
    )
    return str(pictures[-1]) if pictures else 'no picture'


def _parse_args(demo: Demo, description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--work-dir',
        help=f'folder of the trainings (default: {demo.name} in $MMKD_WORK_DIR or work_dirs)',
    )
    parser.add_argument(
        '--jobs', type=int, default=default_jobs(), help='trainings at once (default: one a core)'
    )
    return parser.parse_args()
