"""The command ``mmkd``: ``mmkd distill …`` and ``mmkd train …``."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmkd_plugin.errors import one_line
from mmkd_plugin.recipes.distill import plan
from mmkd_plugin.recipes.settings import Settings
from mmkd_plugin.recipes.table import RECIPES

DESCRIPTION = """Write a config that distils teachers into a student.

    python tools/distill.py STUDENT.py --teacher TEACHER.py CHECKPOINT --method kd

Train it with tools/train.py. Data, schedule, hooks and evaluator are those of the student's config.
Taps are chosen and stated.
"""


def distill_parser() -> argparse.ArgumentParser:
    """Return the parser of ``mmkd distill``."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('student', help="config of the student: a path, or 'pkg::path'")
    parser.add_argument(
        '--teacher',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a teacher; repeat it for several',
    )
    parser.add_argument(
        '--peer', action='append', default=[], metavar='CONFIG', help='another network that learns'
    )
    parser.add_argument('--method', default='kd', help=f'one of {", ".join(RECIPES)}')
    parser.add_argument(
        '--set',
        nargs='+',
        action=Settings,
        default={},
        metavar='KEY=VALUE',
        help='arguments of the method; with cfg. before it, any key of the config',
    )
    parser.add_argument(
        '--out', default='.', metavar='FOLDER', help='where the config is written (default: here)'
    )
    parser.add_argument('--work-dir', help='root of the folders of the runs (default: work_dirs)')
    parser.add_argument('--force', action='store_true', help='overwrite a file of the same name')
    parser.add_argument('--dry-run', action='store_true', help='print the config, write nothing')
    return parser


def run_distill(arguments: Sequence[str] | None = None) -> None:
    """Write the configs, and print the taps and the command that trains."""
    args = distill_parser().parse_args(arguments)
    settings = Config()
    settings.merge_from_dict({k: v for k, v in args.set.items() if not k.startswith('cfg.')})
    options = {
        key.removeprefix('cfg.'): value for key, value in args.set.items() if key.startswith('cfg.')
    }
    found = plan(
        args.student,
        args.teacher,
        args.method,
        args.peer,
        settings.to_dict(),
        options,
        args.out,
        args.work_dir,
    )
    for sentence in found.taps:
        print(sentence)
    if args.dry_run:
        for name, text in found.texts.items():
            print(f'\n# {name}\n{text}', end='')
        return
    paths = found.write(args.out, args.force)
    for path in paths:
        print(f'written: {path}')
    command = [*_train_command(), *map(str, paths)]
    if args.work_dir:  # of one config it is the folder, of several the root of their folders
        alone = len(paths) == 1
        command += ['--work-dir', args.work_dir + (f'/{paths[0].stem}' if alone else '')]
    print('train it:\n    ' + shlex.join(command))


def _train_command() -> list[str]:
    """Return the command that trains, beside the one that was called."""
    if sys.argv[0] == 'mmkd distill':
        return ['mmkd', 'train']
    if Path(sys.argv[0]).name == 'distill.py':
        return ['python', str(Path(sys.argv[0]).with_name('train.py'))]
    return ['python', 'tools/train.py']


def main() -> None:
    """Run ``mmkd distill`` or ``mmkd train``."""
    commands = ('distill', 'train')
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        print(f'usage: mmkd {{{",".join(commands)}}} …', file=sys.stderr)
        raise SystemExit(2)
    name = sys.argv.pop(1)
    sys.argv[0] = f'mmkd {name}'
    if name == 'distill':
        run_or_explain()
        return
    from mmkd_plugin.recipes.train import main as train

    train()


def run_or_explain() -> None:
    """Run :func:`run_distill`; an error of a config is one line."""
    with one_line():
        run_distill()
