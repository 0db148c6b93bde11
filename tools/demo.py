"""Distil a small student from three specialist teachers, on real images: under 5 minutes.

    python tools/demo.py
    python tools/demo.py --pretrained

The teachers are trained first. The student is then trained alone, from the teachers' mean, and by
AMTML-KD with either objective for the teachers' weights. The times are those of 2 cores. The same
command skips what is finished and continues what was interrupted.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before numpy and torch: a training has one core

from experiments.demo.command import demo_command, last_picture
from experiments.demo.plan import Demo, Measure, Training
from rich.console import Console

from mmkd_plugin.engine.stages import Stage

TEACHERS = ('teacher_01234', 'teacher_34567', 'teacher_01789')
DEMO = Demo(
    name='demo',
    about='Seven trainings on distorted MNIST digits',
    configs=Path(__file__).resolve().parent.parent / 'configs/demo',
    teachers=tuple(
        Training(name, f'teacher, specialist for {" ".join(name[-5:])}') for name in TEACHERS
    ),
    students=(
        # First among the students: its job is free while the third teacher is trained.
        Training('student_alone', 'student alone'),
        Training('kd_mean', 'student by the mean of teachers', needs=TEACHERS),
        Training('amtml_paper', 'student by AMTML-KD (paper)', needs=TEACHERS),
        Training('amtml_label', 'student by AMTML-KD (label)', needs=TEACHERS),
    ),
    measure=Measure(
        'accuracy/top1',
        title='test accuracy',
        sentence='{:.1f}% of the test images',
        cell='{:.1f}%',
    ),
    against='kd_mean',
    against_title='against the mean',
)


def report(console: Console, stages: Mapping[str, Stage]) -> None:
    """Print how to read the table, and the paths of pictures, logs and checkpoints."""
    read_table(console)
    console.print('\nMean teacher weights by class (class × teacher, one picture an epoch):')
    for name in ('amtml_paper', 'amtml_label'):
        console.print(f'  {last_picture(stages[name], "*_weights_*.png")}')
    root = stages['kd_mean'].folder.parent
    console.print(
        f'Logs: {root}/NAME/demo.log. Checkpoints: {root}/NAME/epoch_*.pth; those of the students'
        ' without distiller: *_student.pth'
    )


def read_table(console: Console) -> None:
    """Print how to read the table."""
    console.print(
        "\nThe paper's objective uses no labels: its weights follow the student's own predictions."
        '\nWith specialists as teachers it may end below their mean. The label objective learns'
        '\nfrom the labels which teacher fits which class.'
        '\nOne run each on 1,250 test images: two points may be chance. docs/results.md compares'
        '\nover ten seeds.'
    )


if __name__ == '__main__':
    sys.exit(demo_command(DEMO, __doc__, report, pretrained=read_table))
