from dataclasses import replace
from pathlib import Path

from experiments.demo.plan import Demo, Measure, Training
from helpers.errors import raises_config_error

DEMO = Demo(
    name='toy',
    about='Three trainings',
    configs=Path('configs'),
    teachers=(Training('teacher', 'the teacher'),),
    between=(Training('between', needs=('teacher',)),),
    students=(
        Training('alone', 'student alone'),
        Training('distilled', 'student', needs=('teacher', 'between')),
    ),
    measure=Measure('score', title='score', sentence='{:.1f} points'),
    against='alone',
    against_title='against alone',
)


def test_demo_trainings_begin_with_teachers_and_end_with_students() -> None:
    names = [training.name for training in DEMO.trainings]
    assert names == ['teacher', 'between', 'alone', 'distilled']


def test_demo_need_that_comes_later_is_refused() -> None:
    with raises_config_error('between.needs', 'alone', 'teacher'):
        replace(DEMO, between=(Training('between', needs=('teacher', 'alone')),))


def test_demo_two_trainings_of_one_name_are_refused() -> None:
    with raises_config_error('teacher'):
        replace(DEMO, between=(Training('teacher'),))


def test_demo_comparison_with_a_teacher_is_refused() -> None:
    with raises_config_error('against', 'teacher', 'alone, distilled'):
        replace(DEMO, against='teacher')
