from pathlib import Path

import pytest
from mmengine.config import Config

FOLDER = Path(__file__).parents[2] / 'configs/demo'
CONFIGS = sorted(FOLDER.glob('*.py'))
STUDENTS = ['amtml_label', 'amtml_paper', 'kd_mean']


def model(name: str) -> dict:
    return Config.fromfile(FOLDER / f'{name}.py').model


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize('name', STUDENTS)
def test_teachers_are_the_specialists(name: str) -> None:
    # Their networks are written out in the students' configs, so that a result does not depend on where the clone lies.
    for teacher in model(name).teachers:
        digits = teacher.name.removeprefix('knows ')
        cfg = Config.fromfile(FOLDER / f'teacher_{digits}.py')
        own = cfg.model.copy()
        own.head = {key: value for key, value in own.head.items() if key != 'loss'}
        assert teacher.model == own
        assert cfg.train_dataloader.dataset.specialty == [int(digit) for digit in digits]
        assert teacher.checkpoint.endswith(
            f'work_dirs/teacher_{digits}/epoch_{cfg.train_cfg.max_epochs}.pth'
        )


def test_every_class_is_at_home_with_some_teacher() -> None:
    assert set(
        ''.join(teacher.name.removeprefix('knows ') for teacher in model('kd_mean').teachers)
    ) == set('0123456789')


def test_students_differ_in_nothing_but_the_method() -> None:
    alone = Config.fromfile(FOLDER / 'student_alone.py')
    for name in STUDENTS:
        cfg = Config.fromfile(FOLDER / f'{name}.py')
        assert cfg.model.student == alone.model
        for key in (
            'train_dataloader',
            'val_dataloader',
            'test_dataloader',
            'param_scheduler',
            'train_cfg',
            'randomness',
        ):
            assert cfg[key] == alone[key], (name, key)
        assert cfg.optim_wrapper.optimizer == alone.optim_wrapper.optimizer
    paper, label = model('amtml_paper').methods.amtml, model('amtml_label').methods.amtml
    assert (paper.pop('objective'), label.pop('objective')) == ('paper', 'label')
    assert paper == label
    mean = model('kd_mean').methods.kd
    assert (mean.temperature, mean.loss_weight) == (paper.temperature, paper.kd_weight)
