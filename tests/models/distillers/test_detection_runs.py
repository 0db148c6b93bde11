"""Runs of detectors: the Runner of MMEngine, data sets and evaluator of MMDet."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from helpers import classification as tiny
from helpers import coco_files
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from mmdet.engine.hooks import YOLOXModeSwitchHook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.loading.build import build_network
from mmkd_plugin.loading.checkpoint import load_weights

METRIC = 'coco/bbox_mAP'
#: Parts of the message about a teacher of other class names.
OTHER_NAMES = ('the training data', '3 classes', "class 0 is 'red' there and 'green' here")


def run(folder: Path, model: dict[str, Any], iters: int = 2, **changes: Any) -> Runner:
    """Return a Runner that trains and then evaluates, as with a stock config."""
    if not (folder / 'annotations.json').exists():
        coco_files.write(folder)
    init_default_scope('mmdet')
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=coco_files.dataset(folder, False),
        sampler=dict(type='DefaultSampler'),
    )
    settings = dict(
        dataset=coco_files.dataset(folder),
        batch=2,
        val_dataloader=loader,
        val_evaluator=dict(
            type='CocoMetric', ann_file=str(folder / 'annotations.json'), metric='bbox'
        ),
        val_cfg=dict(),
        train_cfg=dict(by_epoch=False, max_iters=iters, val_interval=iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        default_scope='mmdet',
        load_from=None,
    )
    return tiny.runner(model, folder / 'run', iters, **{**settings, **changes})


def config(folder: Path, family: str = 'gfl', **changes: Any) -> dict[str, Any]:
    """Return the config of a student with two teachers of its family, unless changed."""
    detector = detectable(family)
    teachers = [small.teacher(folder, detector, seed) for seed in (1, 2)]
    methods = dict(kd=dict(type='SoftTarget', temperature=2.0))
    return {
        **dict(type='mmkd_plugin.Distiller', student=detector, teachers=teachers, methods=methods),
        **changes,
    }


def detectable(family: str) -> dict[str, Any]:
    """Return the config of a detector whose predictions pass the threshold untrained."""
    option = 'test_cfg__score_thr' if family == 'gfl' else 'test_cfg__rcnn__score_thr'
    return small.detector(family, **{option: 0.001})


@pytest.mark.slow
@pytest.mark.parametrize('family', ['gfl', 'faster_rcnn'])
def test_runner_with_a_distiller_trains_evaluates_and_saves_the_student_alone(
    family: str, tmp_path: Path
) -> None:
    hooks = [
        dict(type='mmkd_plugin.EvaluateTeachers', metric=METRIC),
        dict(type='mmkd_plugin.SaveStudent'),
    ]
    runner = run(tmp_path, config(tmp_path, family), custom_hooks=hooks)
    runner.train()
    scores = runner.model.teacher_scores.tolist()
    assert all(0 <= score <= 1 for score in scores)
    logged = [
        json.loads(line)
        for line in next((tmp_path / 'run').glob('*/vis_data/scalars.json'))
        .read_text()
        .splitlines()
    ]
    assert {f'teacher/t1/{METRIC}', f'teacher/t2/{METRIC}'} <= {
        key for line in logged for key in line
    }
    assert any(METRIC in line for line in logged), 'the student is evaluated'
    assert any('kd.loss_kd' in line and 'task.loss_cls' in line for line in logged)
    student = tmp_path / 'run' / 'iter_2_student.pth'
    alone = build_network(detectable(family), 'student').eval()
    loaded = load_weights(alone, str(student), 'student')
    assert loaded.classes == coco_files.CLASSES
    batch = next(iter(runner.val_dataloader))
    again = next(iter(runner.val_dataloader))
    runner.model.eval()
    with torch.no_grad():
        predicted, expected = runner.model.test_step(batch), alone.test_step(again)
    for one, other in zip(predicted, expected, strict=True):
        assert torch.equal(one.pred_instances.scores, other.pred_instances.scores)
        assert torch.equal(one.pred_instances.bboxes, other.pred_instances.bboxes)


@pytest.mark.parametrize('family', ['gfl', 'retinanet'])
def test_runner_with_crosskd_averages_weights_and_leaves_the_teacher_as_it_is(
    family: str, tmp_path: Path
) -> None:
    detector = small.detector(family)
    teachers = [small.teacher(tmp_path, small.detector(family, bbox_head__stacked_convs=2))]
    methods = dict(crosskd=dict(type='CrossKD'))
    model = config(tmp_path, student=detector, teachers=teachers, methods=methods)
    runner = run(tmp_path, model, custom_hooks=[dict(type='EMAHook', momentum=0.1)])
    teacher = runner.model.teachers[0].model
    before = tiny.weights_of(teacher)
    runner.train()
    assert all(torch.equal(one, before[name]) for name, one in teacher.state_dict().items())
    assert not any(module.training for module in teacher.modules())
    saved = torch.load(tmp_path / 'run' / 'iter_2.pth', weights_only=False)
    for part in ('state_dict', 'ema_state_dict'):
        assert not [name for name in saved[part] if 'teacher' in name and 'convs' in name]
        assert not [name for name in saved[part] if name.startswith(('methods', 'module.methods'))]
    lines = next((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text().splitlines()
    logged = [one for one in map(json.loads, lines) if 'crosskd.loss_scores' in one]
    assert logged and all(one['crosskd.loss_scores'] > 0 for one in logged)
    assert all(one['crosskd.loss_boxes'] > 0 for one in logged)


def test_evaluate_teachers_that_detect_nothing_score_zero(tmp_path: Path) -> None:
    """CocoMetric returns no bbox_mAP then."""
    detector = small.detector('gfl', test_cfg__score_thr=0.999)
    teachers = [small.teacher(tmp_path, detector, seed) for seed in (1, 2)]
    model = config(tmp_path, student=detector, teachers=teachers)
    for metric in (METRIC, None):
        hook = dict(type='mmkd_plugin.EvaluateTeachers', metric=metric)
        runner = run(tmp_path, model, iters=1, custom_hooks=[hook])
        runner.call_hook('before_train')
        assert runner.model.teacher_scores.tolist() == [0.0, 0.0]


def test_evaluate_teachers_with_other_class_names_raise_unless_mapped(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    teachers = [named(small.teacher(tmp_path, detector), ('green', 'red', 'blue'))]
    hooks = [dict(type='mmkd_plugin.EvaluateTeachers')]
    runner = run(tmp_path, config(tmp_path, teachers=teachers), custom_hooks=hooks)
    with raises_config_error('teachers[0] (t1).class_map', ANY, *OTHER_NAMES, fix='student class'):
        runner.call_hook('before_train')
    mapped = [dict(teachers[0], class_map=[1, 0, 2])]
    runner = run(tmp_path, config(tmp_path, teachers=mapped), custom_hooks=hooks)
    runner.call_hook('before_train')
    assert runner.model.teacher_scores.isfinite().all()


def test_distiller_with_teachers_of_other_class_names_raises_before_the_first_step(
    tmp_path: Path,
) -> None:
    detector = small.detector('gfl')
    teachers = [named(small.teacher(tmp_path, detector), ('green', 'red', 'blue'))]
    runner = run(tmp_path, config(tmp_path, teachers=teachers), iters=1)
    runner.model.init_weights = lambda: None
    before = tiny.weights_of(runner.model.student)
    with raises_config_error('teachers[0] (t1).class_map', ANY, *OTHER_NAMES, fix='student class'):
        runner.train()
    assert all(
        torch.equal(value, before[name])
        for name, value in runner.model.student.state_dict().items()
    )
    pairs = [dict(student='neck[0]', teacher='neck[0]')]
    mapped = [dict(teachers[0], class_map=[1, 0, 2])]
    maps = dict(hint=dict(type='Hint', pairs=pairs))  # maps have no classes
    for allowed in (
        small.distiller(tmp_path, detector, mapped),
        small.distiller(tmp_path, detector, teachers, methods=maps),
    ):
        assert small.total(allowed, small.losses_of(allowed, small.batch_for('gfl'))).isfinite()


def test_distiller_with_teachers_that_disagree_on_class_names_raises_when_built(
    tmp_path: Path,
) -> None:
    detector = small.detector('gfl')
    one, other = small.teacher(tmp_path, detector, 1), small.teacher(tmp_path, detector, 2)
    teachers = [named(one, ('a', 'b', 'c')), named(other, ('a', 'c', 'b'))]
    mentions = 't1', "class 1 is 'b' there and 'c' here"
    with raises_config_error('teachers[1] (t2).class_map', ANY, *mentions):
        small.distiller(tmp_path, detector, teachers)
    small.distiller(tmp_path, detector, [teachers[0], dict(teachers[1], class_map=[0, 2, 1])])


@pytest.mark.parametrize('task_weight', [0, 1])
def test_distiller_of_classifiers_on_detection_data_raises_before_the_first_step(
    task_weight: int, tmp_path: Path
) -> None:
    """Student and teachers have one task, and the data another."""
    runner = run(tmp_path, tiny.distiller_config(tmp_path, task_weight=task_weight))
    with raises_config_error('student', 'classification', 'detection', 'training data'):
        runner.train()
    assert runner.iter == 0


def test_distiller_of_detectors_on_classification_data_raises_before_the_first_step(
    tmp_path: Path,
) -> None:
    runner = tiny.runner(config(tmp_path), tmp_path / 'run')
    with raises_config_error('student', 'detection', 'classification', 'training data'):
        runner.train()
    assert runner.iter == 0


def test_mutual_distiller_of_classifiers_on_detection_data_raises_before_the_first_step(
    tmp_path: Path,
) -> None:
    runner = run(
        tmp_path, tiny.mutual_config(), val_dataloader=None, val_evaluator=None, val_cfg=None,
        optim_wrapper=tiny.peer_optimizers(),
    )  # fmt: skip
    with raises_config_error('peers[0] (a)', 'classification', 'detection', 'training data'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.slow
def test_runner_that_resumes_a_distiller_ends_as_an_unbroken_run(tmp_path: Path) -> None:
    """Weightings, their optimizer and the statistics of connectors have a state."""
    amtml = dict(
        type='AMTMLKD',
        objective='label',
        student_groups=['backbone[2]', 'backbone[3]'],
        teacher_taps='neck[0]',
        mapping=[1, 0],
    )
    overhaul = dict(
        type='Overhaul',
        pairs=[
            dict(
                student='backbone[3]',
                teacher='backbone.layer4.1.relu#1:input',
                norm='backbone.layer4.1.bn2',
            )
        ],
    )
    model = config(tmp_path, methods=dict(amtml=amtml, od=overhaul))

    def go(folder: str, iters: int, **changes: Any) -> Runner:
        (tmp_path / folder).mkdir(exist_ok=True)
        optimizer = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-4, momentum=0.9))
        runner = run(tmp_path / folder, model, iters, optim_wrapper=optimizer, **changes)
        runner.train()
        return runner

    unbroken = go('one', 4)
    go('two', 2)
    resumed = go('two', 4, resume=True)
    assert resumed.iter == 4
    states = unbroken.model.state_dict(), resumed.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(
        torch.equal(value.nan_to_num(), states[1][name].nan_to_num())
        for name, value in states[0].items()
    )


def named(teacher: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """Add class names to the checkpoint of a teacher, as training writes them."""
    content = torch.load(teacher['checkpoint'])
    torch.save(dict(content, meta=dict(dataset_meta=dict(classes=classes))), teacher['checkpoint'])
    return teacher


def test_teacher_with_a_class_map_predicts_in_the_classes_of_the_student(tmp_path: Path) -> None:
    detector = small.detector('gfl', test_cfg__score_thr=0.05)
    raw = small.batch_for('gfl')
    path = small.checkpoint(tmp_path, detector)
    plain, mapped = Teacher(detector, path), Teacher(detector, path, class_map=[2, 0])
    own, renamed = (
        one.predict(small.batch_for('gfl'), torch.device('cpu')) for one in (plain, mapped)
    )
    for one, other in zip(own, renamed, strict=True):
        kept = one.pred_instances[one.pred_instances.labels != 1]
        assert len(kept) > 0
        assert torch.equal(other.pred_instances.labels, (kept.labels == 0).long())
        assert torch.equal(other.pred_instances.bboxes, kept.bboxes)
    assert len(raw['inputs']) == len(own)


def test_distiller_with_yolox_mode_switch_hook_switches_the_head_of_the_student(
    tmp_path: Path,
) -> None:
    """The hook of YOLOX switches a loss on for the last epochs."""
    model = small.distiller(tmp_path, small.detector('yolox'))
    runner = Mock(model=model, epoch=290, max_epochs=300)
    runner.train_dataloader.dataset.pipeline.transforms = []
    hook = YOLOXModeSwitchHook(num_last_epochs=10, skip_type_keys=())
    hook.before_train_epoch(runner)
    assert model.student.bbox_head.use_l1 and not model.teachers[0].model.bbox_head.use_l1
    assert 'task.loss_l1' in small.losses_of(model, small.batch_for('yolox'))
    assert not hasattr(tiny.distiller(tmp_path), 'bbox_head')
