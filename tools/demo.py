"""Teach a small student with three specialists, on real images: seven trainings, a few minutes on two cores.

    python tools/demo.py

The teachers come first; then the student learns alone, from the teachers' mean, and by AMTML-KD with either objective for
the teachers' weights. What is finished is skipped and what was interrupted goes on, so the command may be given again.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault(
    'OMP_NUM_THREADS', '1'
)  # read when numpy and torch are imported: a training has one core

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
        Training(name, f'teacher, at home in {" ".join(name[-5:])}') for name in TEACHERS
    ),
    students=(
        Training(
            'student_alone', 'student alone'
        ),  # it fills the core that the third teacher leaves free
        Training('kd_mean', 'student by the mean of teachers', needs=TEACHERS),
        Training('amtml_paper', 'student by AMTML-KD (paper)', needs=TEACHERS),
        Training('amtml_label', 'student by AMTML-KD (label)', needs=TEACHERS),
    ),
    measure=Measure(
        'accuracy/top1', title='test accuracy', told='{:.1f}% of the test images', cell='{:.1f}%'
    ),
    against='kd_mean',
    against_title='against the mean',
)


def report(console: Console, stages: Mapping[str, Stage]) -> None:
    """How to read the table, and where everything is."""
    console.print(
        "\nThe paper's weights see no label and follow what the student believes already: among specialists they may fall"
        '\nbelow the mean of the teachers. The others learn from the labels who is at home where.'
        '\nOne run each on 1,250 test images: two points may be chance. docs/results.md compares over many seeds.'
    )
    console.print('\nWho is trusted where (class × teacher, one picture an epoch):')
    for name in ('amtml_paper', 'amtml_label'):
        console.print(f'  {last_picture(stages[name], "*_weights_*.png")}')
    root = stages['kd_mean'].folder.parent
    console.print(
        f'Logs: {root}/NAME/demo.log. Checkpoints: {root}/NAME/epoch_*.pth, the students also without distiller: *_student.pth'
    )


if __name__ == '__main__':
    sys.exit(demo_command(DEMO, __doc__, report))
