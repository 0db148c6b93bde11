from pathlib import Path

import pytest
from experiments.study.load import STUDIES, find_study, load_study, study_files
from helpers.errors import raises_config_error
from helpers.toy_run import write_config

from mmkd_plugin.errors import ConfigError

STUDY = """
question = 'Does momentum help?'
baseline = 'plain'
config = 'toy.py'
seeds = [0, 1]
tune_seeds = [100]
prepare = dict(teacher=dict(config='toy.py', options={'train_cfg.max_epochs': 1}))
options = {'train_cfg.max_epochs': 3}
arms = dict(
    plain=dict(options={'optim_wrapper.optimizer.momentum': 0.0}),
    tuned=dict(grid={
        'optim_wrapper.optimizer.lr': [0.1, 0.3],
        'model': dict(wet=dict(dropout=0.5), dry=dict(dropout=0.0)),
    }),
    alike=dict(options={'optim_wrapper.optimizer.momentum': 0.5}, choice_of='tuned'),
    taught=dict(options={'load_from': '{{$MMKD_WORK_DIR:work_dirs}}/teacher/epoch_1.pth'}),
)
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    write_config(tmp_path / 'toy.py')
    (tmp_path / 'study.py').write_text(STUDY)
    return tmp_path / 'study.py'


def change(file: Path, *lines: str) -> Path:
    file.write_text('\n'.join([file.read_text(), *lines]))
    return file


def test_load_study_override_replaces_the_choice(study_file: Path) -> None:
    change(study_file, "arms['alike']['override'] = {'model.dropout': 0.25}")
    arms = load_study(study_file).arms
    assert [
        arms[name].candidates['lr=0.3, model=wet'].cfg.model.dropout for name in ('tuned', 'alike')
    ] == [0.5, 0.25]
    assert arms['alike'].candidates['lr=0.3, model=wet'].cfg.optim_wrapper.optimizer.lr == 0.3


def test_load_study_merges_the_studys_options_then_the_arms(study_file: Path) -> None:
    study = load_study(study_file)
    plain = study.arms['plain'].candidates[''].cfg
    assert plain.train_cfg.max_epochs == 3
    assert plain.optim_wrapper.optimizer == dict(type='SGD', lr=0.1, momentum=0.0)
    assert study.prepare['teacher'].cfg.train_cfg.max_epochs == 1
    assert study.metric == 'accuracy/top1'


def test_load_study_grid_gives_the_product_with_names(study_file: Path) -> None:
    arm = load_study(study_file).arms['tuned']
    assert list(arm.candidates) == [
        'lr=0.1, model=wet',
        'lr=0.1, model=dry',
        'lr=0.3, model=wet',
        'lr=0.3, model=dry',
    ]
    chosen = arm.candidates['lr=0.3, model=dry'].cfg
    assert chosen.optim_wrapper.optimizer.lr == 0.3
    assert chosen.model == dict(type='ToyLinear', dropout=0.0)
    assert len({candidate.sha256 for candidate in arm.candidates.values()}) == 4


def test_load_study_choice_of_takes_the_other_arms_grid(study_file: Path) -> None:
    arms = load_study(study_file).arms
    assert arms['alike'].chosen_by == 'tuned'
    candidate = arms['alike'].candidates['lr=0.3, model=wet'].cfg
    assert candidate.optim_wrapper.optimizer == dict(type='SGD', lr=0.3, momentum=0.5)


def test_load_study_changed_teacher_changes_only_the_arms_that_name_it(
    study_file: Path,
) -> None:
    before = load_study(study_file).arms
    change(study_file, "prepare['teacher']['options'] = {'train_cfg.max_epochs': 2}")
    after = load_study(study_file).arms
    assert after['taught'].candidates[''].sha256 != before['taught'].candidates[''].sha256
    assert after['plain'].candidates[''].sha256 == before['plain'].candidates[''].sha256


@pytest.mark.parametrize(
    ('line', 'key', 'words'),
    [
        ('epochs = 3', 'epochs', 'all are question, '),
        ('del question', 'question', 'is missing'),
        ("arms['plain']['option'] = {}", 'arms.plain.option', "nearest is 'options'"),
        ("baseline = 'nobody'", 'baseline', "found 'nobody'"),
        ("baseline = dict(here='plain')", 'baseline', "found {'here': 'plain'}"),
        ('seeds = [0, 100]', 'tune_seeds', 'found [100]'),
        ('del tune_seeds', 'tune_seeds', 'tuned, alike'),
        ('del config', 'arms.plain.config', 'is missing'),
        (
            "arms['tuned']['grid'] = {'model.dropout': 0.1}",
            'arms.tuned.grid.model.dropout',
            'found 0.1',
        ),
        ("arms['alike']['choice_of'] = 'nobody'", 'arms.alike.choice_of', "found 'nobody'"),
        ("arms['taught']['choice_of'] = 'alike'", 'arms.taught.choice_of', "found 'alike'"),
        ("arms['alike']['grid'] = {'model.dropout': [0.1]}", 'arms.alike.choice_of', 'grid'),
        ("prepare['teacher'] = dict(option={})", 'prepare.teacher.option', "'options'"),
        ('scale = 0', 'scale', 'found 0'),
    ],
)
def test_load_study_wrong_file_names_the_key(
    study_file: Path, line: str, key: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(change(study_file, line))
    assert caught.value.key == f'study.{key}'
    assert words in str(caught.value)


def test_find_study_takes_a_name_or_a_path(study_file: Path) -> None:
    assert find_study('detection') == STUDIES / 'detection.py'
    assert find_study(str(study_file)) == study_file


def test_find_study_unknown_name_lists_the_studies() -> None:
    known = ', '.join(path.stem for path in study_files())
    assert known.startswith('adaptive_teachers, detection')
    with raises_config_error('study', 'detecton', known, fix='Studies'):
        find_study('detecton')
