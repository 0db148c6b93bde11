"""The demo's configs: specialists and AMTML-KD, IE-KD with a larger and a smaller teacher, DML."""

from typing import Any

import pytest
import torch
from helpers.configs import build, fresh, last_checkpoint, one_step, parameters, read, save
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample

from mmkd_plugin.engine.stages import work_root

STUDENTS = ['amtml_label', 'amtml_paper', 'kd_mean']
CHAINS = [  # teacher, paraphraser, distilled student, the same student alone
    ('teacher_resnet14', 'paraphraser', 'ie_kd', 'student_alone'),
    ('student_alone', 'paraphraser_small', 'ie_kd_larger', 'larger_alone'),
]
SAME = ('train_dataloader', 'val_dataloader', 'param_scheduler', 'train_cfg', 'randomness')


def demo(name: str) -> Config:
    return read(f'demo/{name}')


def batch(count: int = 8) -> dict[str, Any]:
    images = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8)
    return dict(
        inputs=list(images),
        data_samples=[DataSample().set_gt_label(index) for index in range(count)],
    )


@pytest.mark.parametrize('name', STUDENTS)
def test_the_teachers_are_the_specialists(name: str) -> None:
    for teacher in demo(name).model.teachers:
        digits = teacher.name.removeprefix('knows ')
        cfg = demo(f'teacher_{digits}')
        own = {key: value for key, value in cfg.model.items() if key != 'head'}
        own['head'] = {key: value for key, value in cfg.model.head.items() if key != 'loss'}
        assert teacher.model == own
        assert cfg.train_dataloader.dataset.specialty == [int(digit) for digit in digits]
        assert f'work_dirs/teacher_{digits}/' in teacher.checkpoint


def test_every_class_has_a_specialist() -> None:
    names = [teacher.name for teacher in demo('kd_mean').model.teachers]
    assert set(''.join(name.removeprefix('knows ') for name in names)) == set('0123456789')


def test_students_differ_in_nothing_but_the_method() -> None:
    alone = demo('student_alone')
    for name in STUDENTS:
        cfg = demo(name)
        assert cfg.model.student == alone.model
        for key in (*SAME, 'test_dataloader'):
            assert cfg[key] == alone[key], (name, key)
        assert cfg.optim_wrapper.optimizer == alone.optim_wrapper.optimizer
    paper, label = (fresh(f'demo/amtml_{name}').model.methods.amtml for name in ('paper', 'label'))
    assert (paper.pop('objective'), label.pop('objective')) == ('paper', 'label')
    assert paper == label
    mean = demo('kd_mean').model.methods.kd
    assert (mean.temperature, mean.loss_weight) == (paper.temperature, paper.kd_weight)


@pytest.mark.parametrize('chain', CHAINS, ids=lambda chain: chain[2])
def test_each_stage_takes_the_last_checkpoint_of_the_one_before(chain: tuple[str, ...]) -> None:
    *before, name, alone = chain
    for stage in before:
        cfg = fresh(f'demo/{stage}')
        save(build(cfg), work_root() / stage / last_checkpoint(cfg))
    cfg = fresh(f'demo/{name}')
    model = build(cfg)
    assert {name: value.shape for name, value in model.student.state_dict().items()} == {
        name: value.shape for name, value in build(demo(alone)).state_dict().items()
    }
    logged, _ = one_step(model, cfg, batch())
    assert {'task.loss', 'ie.loss_inherit', 'ie.loss_explore', 'ie.cka'} <= logged.keys()


@pytest.mark.parametrize('chain', CHAINS, ids=lambda chain: chain[2])
def test_distilled_and_alone_are_trained_alike(chain: tuple[str, ...]) -> None:
    distilled, alone = demo(chain[2]), demo(chain[3])
    for key in (*SAME, 'optim_wrapper'):
        assert distilled[key] == alone[key], key


def test_the_larger_student_is_larger_than_its_teacher() -> None:
    teacher, *_, student = CHAINS[1]
    assert (parameters(build(demo(teacher))), parameters(build(demo(student)))) == (19_810, 77_754)


@pytest.mark.parametrize('name', ['dml', 'ie_dml'])
def test_the_peers_are_two_of_the_demos_student(name: str) -> None:
    cfg, alone = fresh(f'demo/{name}'), demo('student_alone')
    assert [peer.model for peer in cfg.model.peers] == [alone.model] * 2
    for key in (*SAME, 'data_preprocessor'):
        assert cfg[key] == alone[key], key
    assert cfg.optim_wrapper == {
        **alone.optim_wrapper,
        'constructor': 'mmkd_plugin.PeerOptimWrappers',
    }
    model = build(cfg).train()
    logged = model.train_step(batch(), build_optim_wrapper(model, cfg.optim_wrapper))
    assert all(value.isfinite() for value in logged.values())
