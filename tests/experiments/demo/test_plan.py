from dataclasses import replace
from pathlib import Path

import pytest
from experiments.demo.plan import Demo, Measure, Training

DEMO = Demo(
    name='toy',
    about='Three trainings',
    configs=Path('configs'),
    teachers=(Training('teacher', 'the teacher'),),
    between=(Training('between', needs=('teacher',)),),
    students=(
        Training('alone', 'student alone'),
        Training('taught', 'student', needs=('teacher', 'between')),
    ),
    measure=Measure('score', title='score', told='{:.1f} points'),
    against='alone',
    against_title='against alone',
)


def test_teachers_come_first_and_students_last() -> None:
    assert [training.name for training in DEMO.trainings] == [
        'teacher',
        'between',
        'alone',
        'taught',
    ]


def test_what_is_needed_comes_before() -> None:
    with pytest.raises(
        ValueError, match=r"between\.needs: expected some of \['teacher'\].*got \['alone'\]"
    ):
        replace(DEMO, between=(Training('between', needs=('teacher', 'alone')),))


def test_a_name_is_of_one_training() -> None:
    with pytest.raises(ValueError, match='teacher: expected one training of this name'):
        replace(DEMO, between=(Training('teacher'),))


def test_compared_is_with_a_student() -> None:
    with pytest.raises(
        ValueError, match=r"against: expected one of \['alone', 'taught'\], got 'teacher'"
    ):
        replace(DEMO, against='teacher')
