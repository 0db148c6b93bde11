"""Teach a small student with three specialists, on real images: seven trainings, a few minutes on two cores.

    python tools/demo.py

The teachers come first; then the student learns alone, from the teachers' mean, and by AMTML-KD with either objective for
the teachers' weights. What is finished is skipped and what was interrupted goes on, so the command may be given again.
"""

import argparse
import copy
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # read when numpy and torch are imported: a training has one core

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mmkd_plugin.launch import own_state
from mmkd_plugin.stages import Stage, load_stages, train_stages, work_root
from mmkd_plugin.study.pool import Task, run_forked
from mmkd_plugin.study.run import default_jobs
from mmkd_plugin.study.train import preload

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/demo'
TEACHERS = {
    'teacher_01234': 'teacher, at home in 0 1 2 3 4',
    'teacher_34567': 'teacher, at home in 3 4 5 6 7',
    'teacher_01789': 'teacher, at home in 0 1 7 8 9',
}
STUDENTS = {
    'student_alone': 'student alone',
    'kd_mean': 'student by the mean of teachers',
    'amtml_paper': 'student by AMTML-KD (paper)',
    'amtml_label': 'student by AMTML-KD (label)',
}


def parse_args() -> argparse.Namespace:
    """Where to, and how many at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', help='folder of the trainings (default: demo in $MMKD_WORK_DIR or work_dirs)')
    parser.add_argument('--jobs', type=int, default=default_jobs(), help='trainings at once (default: one a core)')
    return parser.parse_args()


def load_demo(root: str | Path, edit: Callable[[Config], object] = lambda cfg: None) -> dict[str, Stage]:
    """The seven trainings by name, below ``root``."""
    paths = [CONFIGS / f'{name}.py' for name in (*TEACHERS, *STUDENTS)]
    return {stage.folder.name: stage for stage in load_stages(paths, str(Path(root).absolute()), edit)}


def train_and_test(stage: Stage) -> float:
    """Do what is not done yet; give the accuracy on the test images at the last epoch, in percent."""
    train_stages([stage])
    finished, tested = stage.note('finished.json'), stage.note('tested.json')
    assert finished is not None
    if tested is None or tested['finished'] != finished['finished']:
        cfg = copy.deepcopy(stage.cfg)
        cfg.resume, cfg.load_from = False, str(stage.folder / finished['last_checkpoint'])
        with own_state():
            accuracy = Runner.from_cfg(cfg).test()['accuracy/top1']
        stage.write_note('tested.json', finished=finished['finished'], accuracy=float(accuracy))
        return float(accuracy)
    return float(tested['accuracy'])


def run(stages: Mapping[str, Stage], jobs: int, console: Console) -> dict[str, float]:
    """Train and test all, teachers before their students.

    Raises:
        RuntimeError: If one fails; the message is the last line of its log.
    """
    columns = (
        TextColumn('{task.description:<14}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('epochs'),
        TimeElapsedColumn(),
    )
    accuracies: dict[str, float] = {}
    preload(stage.cfg for stage in stages.values())
    with Progress(*columns, console=console, auto_refresh=False) as progress:  # its thread must not be there at a fork
        bars = {
            name: progress.add_task(name, total=s.cfg.train_cfg.max_epochs, start=False) for name, s in stages.items()
        }
        tasks = {name: Task(name, s.folder / 'demo.log', partial(train_and_test, s)) for name, s in stages.items()}

        def look() -> None:
            for name in bars.keys() - accuracies.keys():
                if tasks[name].log.exists() and (epoch := last_epoch(tasks[name].log)):
                    progress.start_task(bars[name])
                    progress.update(bars[name], completed=epoch)
            progress.refresh()

        # The student that learns alone needs no teacher: it fills the core that the third teacher leaves free.
        for names in ([*TEACHERS, 'student_alone'], [name for name in STUDENTS if name != 'student_alone']):
            for name in names:
                tasks[name].log.unlink(missing_ok=True)
            with closing(run_forked([tasks[name] for name in names], jobs, tick=look)) as outcomes:
                for outcome in outcomes:
                    name = outcome.task.name
                    if outcome.failure:
                        raise RuntimeError(f'{name} failed: {outcome.failure}\nIts log: {outcome.task.log}')
                    accuracies[name] = outcome.result
                    progress.start_task(bars[name])
                    progress.update(bars[name], completed=progress.tasks[bars[name]].total)
                    progress.stop_task(bars[name])
                    progress.console.print(f'{name}: {outcome.result:.1f}% of the test images, {outcome.seconds:.0f} s')
    return accuracies


def last_epoch(log: Path) -> int:
    """The last epoch that a training has begun, from its log; 0 before the first."""
    epochs = re.findall(r'Epoch\(train\)\s+\[\s*(\d+)\]', log.read_text(errors='replace'))
    return int(epochs[-1]) if epochs else 0


def table_of(accuracies: Mapping[str, float]) -> Table:
    """All accuracies, the students' against the mean of the teachers."""
    table = Table('', 'test accuracy', 'against the mean', box=None, pad_edge=False)
    for name, what in TEACHERS.items():
        table.add_row(what, f'{accuracies[name]:.1f}%', '')
    for name, what in STUDENTS.items():
        difference = accuracies[name] - accuracies['kd_mean']
        table.add_row(what, f'{accuracies[name]:.1f}%', '' if name == 'kd_mean' else f'{difference:+.1f}')
    return table


def main() -> int:
    """Run the demo; ended from outside, it ends its trainings first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = parse_args()
    MMLogger.get_current_instance().setLevel('WARNING')  # it tells of every environment variable in a config
    console = Console(highlight=False, soft_wrap=True)
    root = Path(args.work_dir or work_root() / 'demo').absolute()
    stages = load_demo(root)
    began = time.monotonic()
    console.print(f'Seven trainings on distorted MNIST digits, {args.jobs} at once, into {root}')
    try:
        accuracies = run(stages, args.jobs, console)
    except RuntimeError as error:
        console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        console.print('Interrupted. The same command goes on from here.')
        return 130
    console.print(f'\n{(time.monotonic() - began) / 60:.1f} minutes\n')
    console.print(table_of(accuracies))
    console.print(
        "\nThe paper's weights see no label and follow what the student believes already: among specialists they may fall"
        '\nbelow the mean of the teachers. The others learn from the labels who is at home where.'
        '\nOne run each on 1,250 test images: two points may be chance. docs/results.md compares over many seeds.'
    )
    console.print('\nWho is trusted where (class × teacher, one picture an epoch):')
    for name in ('amtml_paper', 'amtml_label'):
        pictures = sorted(
            stages[name].folder.glob('*/vis_data/vis_image/*_weights_*.png'), key=lambda path: path.stat().st_mtime
        )
        console.print(f'  {pictures[-1] if pictures else "no picture"}')
    console.print(
        f'Logs: {root}/NAME/demo.log. Checkpoints: {root}/NAME/epoch_*.pth, the students also without distiller: *_student.pth'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
