"""The demo from the model zoo, without its tests: the teachers' files, and folders it refuses."""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from experiments.demo.pretrained import MARK, how_to_train, place_teachers, refuse_mark
from experiments.model_zoo.index import Zoo
from helpers.errors import ANY, raises_config_error

from mmkd_plugin.engine.stages import Stage

ROOT = Path(__file__).parents[3]
DEMO: Any = runpy.run_path(str(ROOT / 'tools/demo.py'), run_name='demo')['DEMO']
TEACHERS = [teacher.name for teacher in DEMO.teachers]
ENTRIES = {training.name: Zoo().entries()[training.name] for training in DEMO.trainings}


@pytest.fixture
def stages(tmp_path: Path) -> dict[str, Stage]:
    return DEMO.load(tmp_path / 'demo')


def test_place_teachers_students_find_them_and_nothing_passes_for_trained(
    tmp_path: Path, stages: dict[str, Stage]
) -> None:
    for _ in range(2):
        place_teachers(DEMO, stages, Zoo(), ENTRIES)
        for student in ('kd_mean', 'amtml_label'):
            for name, teacher in zip(TEACHERS, stages[student].cfg.model.teachers, strict=True):
                found = Path(teacher.checkpoint)
                assert found.read_bytes() == (ROOT / ENTRIES[name].weights).read_bytes()
        found.write_bytes(b'half')  # the second call repairs it
    for stage in stages.values():
        assert stage.read_status('started.json') is stage.read_status('finished.json') is None
    marked = json.loads((tmp_path / 'demo' / MARK).read_text())
    assert marked == {name: entry.sha256 for name, entry in ENTRIES.items()}


def test_place_teachers_never_overwrites_a_trained_network(
    tmp_path: Path, stages: dict[str, Stage]
) -> None:
    student = stages['student_alone']
    student.write_status('finished.json')
    with raises_config_error('--work-dir', str(tmp_path / 'demo'), 'student_alone', fix=''):
        place_teachers(DEMO, stages, Zoo(), ENTRIES)
    assert list((tmp_path / 'demo').iterdir()) == [student.folder]
    shutil.rmtree(student.folder)
    place_teachers(DEMO, stages, Zoo(), ENTRIES)
    student.write_status('finished.json')  # a student from these teachers may be trained here
    place_teachers(DEMO, stages, Zoo(), ENTRIES)
    stages[TEACHERS[1]].write_status('started.json')
    with raises_config_error('--work-dir', ANY, TEACHERS[1]):
        place_teachers(DEMO, stages, Zoo(), ENTRIES)


def test_place_teachers_changed_file_of_the_zoo_writes_nothing(
    tmp_path: Path, stages: dict[str, Stage]
) -> None:
    zoo = Zoo(tmp_path / 'configs/model_zoo')
    shutil.copytree(ROOT / 'configs/model_zoo', zoo.folder)
    with zoo.path(ENTRIES['amtml_label'].weights).open('ab') as file:
        file.write(b'more')
    with raises_config_error('amtml_label.Metadata.SHA-256', ANY, 'has changed'):
        place_teachers(DEMO, stages, zoo, ENTRIES)
    assert not (tmp_path / 'demo').exists()


def test_refuse_mark_the_demo_trains_in_other_folders_alone(
    tmp_path: Path, stages: dict[str, Stage]
) -> None:
    refuse_mark(tmp_path / 'demo')
    place_teachers(DEMO, stages, Zoo(), ENTRIES)
    with raises_config_error('--work-dir', str(tmp_path / 'demo'), '--pretrained', fix='folder'):
        refuse_mark(tmp_path / 'demo')


def test_how_to_train_names_the_folder_and_the_last_student(
    tmp_path: Path, stages: dict[str, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    command = how_to_train(DEMO, stages)
    assert command.startswith(f'MMKD_WORK_DIR={tmp_path}/demo ')
    assert command.endswith(' tools/train.py configs/demo/amtml_label.py')
