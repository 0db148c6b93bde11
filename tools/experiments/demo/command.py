"""The command line of a demo: its options, its first and last lines, and its exit code."""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from experiments.demo.plan import Demo
from experiments.demo.pretrained import how_to_train, refuse_mark, run_pretrained
from experiments.demo.run import run_demo
from experiments.model_zoo.index import Zoo
from experiments.pool import default_jobs, sigterm_exits
from experiments.progress import duration
from mmkd_plugin.engine.stages import Stage, work_root
from mmkd_plugin.errors import ConfigError

Report = Callable[[Console, Mapping[str, Stage]], None]


def demo_command(
    demo: Demo,
    description: str | None,
    report: Report,
    pretrained: Callable[[Console], None] | None = None,
) -> int:
    """Run a demo from the command line. A signal that ends it ends its trainings first.

    Args:
        demo: The demo.
        description: Text of ``--help``.
        report: Prints the lines below the table.
        pretrained: Prints them for networks of the model zoo. With it, the command has the flag
            ``--pretrained``, and the zoo has a network for each teacher and student.

    Returns:
        The exit code.
    """
    with sigterm_exits():
        return _run(demo, description, report, pretrained)


def _run(
    demo: Demo,
    description: str | None,
    report: Report,
    pretrained: Callable[[Console], None] | None,
) -> int:
    args = _parse_args(demo, description, pretrained is not None)
    # At INFO it logs every environment variable in a config.
    MMLogger.get_current_instance().setLevel('WARNING')
    console = Console(highlight=False, soft_wrap=True)
    name = f'{demo.name}_pretrained' if args.pretrained else demo.name
    root = Path(args.work_dir or work_root() / name).absolute()
    stages = demo.load(root)
    began = time.monotonic()
    try:
        if args.pretrained:
            measured = run_pretrained(demo, stages, args.jobs, console, Zoo())
        else:
            refuse_mark(root)
            console.print(f'{demo.about}, {args.jobs} at once, into {root}')
            measured = run_demo(demo, stages, args.jobs, console)
    except (RuntimeError, ConfigError) as error:
        console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        console.print('Interrupted. The same command continues from here.')
        return 130
    console.print(f'\nDone in {duration(time.monotonic() - began)}.\n')
    console.print(table_of(demo, measured))
    if pretrained is not None and args.pretrained:
        pretrained(console)
        console.print(
            f'\nTrain a student from these teachers yourself:\n  {how_to_train(demo, stages)}',
            markup=False,
        )
    else:
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


def _parse_args(demo: Demo, description: str | None, has_pretrained: bool) -> argparse.Namespace:
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
    parser.set_defaults(pretrained=False)
    if has_pretrained:
        parser.add_argument(
            '--pretrained',
            action='store_true',
            help='test networks of the model zoo, trained before, in another folder',
        )
    return parser.parse_args()
