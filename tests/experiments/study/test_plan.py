from pathlib import Path

import pytest
from experiments.study.load import load_study
from helpers.toy_run import write_config

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
    tuned=dict(grid={'optim_wrapper.optimizer.lr': [0.1, 0.3], 'model': dict(wet=dict(dropout=0.5), dry=dict(dropout=0.0))}),
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


def test_an_override_takes_back_what_was_chosen(study_file: Path) -> None:
    change(study_file, "arms['alike']['override'] = {'model.dropout': 0.25}")
    arms = load_study(study_file).arms
    assert [
        arms[name].candidates['lr=0.3, model=wet'].cfg.model.dropout for name in ('tuned', 'alike')
    ] == [0.5, 0.25]
    assert arms['alike'].candidates['lr=0.3, model=wet'].cfg.optim_wrapper.optimizer.lr == 0.3


def test_options_are_laid_over_the_arms_config_the_studys_first(study_file: Path) -> None:
    study = load_study(study_file)
    plain = study.arms['plain'].candidates[''].cfg
    assert plain.train_cfg.max_epochs == 3
    assert plain.optim_wrapper.optimizer == dict(type='SGD', lr=0.1, momentum=0.0)
    assert study.prepare['teacher'].cfg.train_cfg.max_epochs == 1
    assert study.metric == 'accuracy/top1'


def test_a_grid_is_a_product_whose_candidates_are_named(study_file: Path) -> None:
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


def test_an_arm_may_leave_the_choice_to_another(study_file: Path) -> None:
    arms = load_study(study_file).arms
    assert arms['alike'].chosen_by == 'tuned'
    candidate = arms['alike'].candidates['lr=0.3, model=wet'].cfg
    assert candidate.optim_wrapper.optimizer == dict(type='SGD', lr=0.3, momentum=0.5)


def test_a_changed_teacher_makes_other_runs_of_the_arms_that_name_it_alone(
    study_file: Path,
) -> None:
    before = load_study(study_file).arms
    change(study_file, "prepare['teacher']['options'] = {'train_cfg.max_epochs': 2}")
    after = load_study(study_file).arms
    assert after['taught'].candidates[''].sha256 != before['taught'].candidates[''].sha256
    assert after['plain'].candidates[''].sha256 == before['plain'].candidates[''].sha256


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('epochs = 3', r"study.py: expected keys from .* got .*'epochs'"),
        ('del question', 'study.py: expected keys'),
        ("arms['plain']['option'] = {}", "arms.plain: expected keys from .* got .*'option'"),
        ("baseline = 'nobody'", "baseline: expected one of the arms .* got 'nobody'"),
        (
            "baseline = dict(here='plain')",
            r"baseline: expected one of the arms .*, or one for each table, got \{'here'",
        ),
        ('seeds = [0, 100]', r'tune_seeds: expected seeds that are not reported, got \[100\]'),
        ('del tune_seeds', r"tune_seeds: expected some, for the arms \['tuned', 'alike'\]"),
        ('del config', r'arms.plain.config: expected a config'),
        (
            "arms['tuned']['grid'] = {'model.dropout': 0.1}",
            'arms.tuned.grid.model.dropout: expected a list',
        ),
        (
            "arms['alike']['choice_of'] = 'nobody'",
            "arms.alike.choice_of: expected another arm, .* got 'nobody'",
        ),
        ("prepare['teacher'] = dict(option={})", 'prepare.teacher: expected keys'),
    ],
)
def test_a_wrong_study_file_is_one_clear_error(study_file: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_study(change(study_file, line))
