"""Detectors in MMEngine's Runner, on data sets of MMDet's on disk, with MMDet's own evaluator."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from helpers import classification as tiny
from helpers import coco_files
from helpers import detection as small
from mmdet.engine.hooks import YOLOXModeSwitchHook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.loading.build import build_network
from mmkd_plugin.loading.checkpoint import load_weights

METRIC = 'coco/bbox_mAP'


def run(folder: Path, model: dict[str, Any], iters: int = 2, **changes: Any) -> Runner:
    """A Runner that trains and then evaluates, as a stock config's does."""
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
    detector = detectable(family)
    taught = [small.teacher(folder, detector, seed) for seed in (1, 2)]
    methods = dict(kd=dict(type='SoftTarget', temperature=2.0))
    return {
        **dict(type='mmkd_plugin.Distiller', student=detector, teachers=taught, methods=methods),
        **changes,
    }


def detectable(family: str) -> dict[str, Any]:
    """It reports what it sees from its first step on."""
    option = 'test_cfg__score_thr' if family == 'gfl' else 'test_cfg__rcnn__score_thr'
    return small.detector(family, **{option: 0.001})


@pytest.mark.slow
@pytest.mark.parametrize('family', ['gfl', 'faster_rcnn'])
def test_a_run_trains_evaluates_teachers_and_student_and_saves_the_student_alone(
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
    assert any(METRIC in line for line in logged), 'the student is evaluated as any detector is'
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


def test_teachers_that_detect_nothing_at_all_score_zero(tmp_path: Path) -> None:
    """CocoMetric gives no bbox_mAP then."""
    detector = small.detector('gfl', test_cfg__score_thr=0.999)
    taught = [small.teacher(tmp_path, detector, seed) for seed in (1, 2)]
    model = config(tmp_path, student=detector, teachers=taught)
    for metric in (METRIC, None):
        hook = dict(type='mmkd_plugin.EvaluateTeachers', metric=metric)
        runner = run(tmp_path, model, iters=1, custom_hooks=[hook])
        runner.call_hook('before_train')
        assert runner.model.teacher_scores.tolist() == [0.0, 0.0]


def test_a_teacher_of_other_class_names_is_found_before_training(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    taught = [named(small.teacher(tmp_path, detector), ('green', 'red', 'blue'))]
    hooks = [dict(type='mmkd_plugin.EvaluateTeachers')]
    runner = run(tmp_path, config(tmp_path, teachers=taught), custom_hooks=hooks)
    message = r"^teachers\[0\] \(t1\).class_map: expected .* of the training data.*: 3 and 3, class 0 is 'red' here and 'green' there"
    with pytest.raises(ValueError, match=message):
        runner.call_hook('before_train')
    mapped = [dict(taught[0], class_map=[1, 0, 2])]
    runner = run(tmp_path, config(tmp_path, teachers=mapped), custom_hooks=hooks)
    runner.call_hook('before_train')
    assert runner.model.teacher_scores.isfinite().all()


def test_it_is_found_without_that_hook_too_before_the_first_step(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    taught = [named(small.teacher(tmp_path, detector), ('green', 'red', 'blue'))]
    runner = run(tmp_path, config(tmp_path, teachers=taught), iters=1)
    runner.model.init_weights = lambda: None
    before = tiny.weights_of(runner.model.student)
    message = r"^teachers\[0\] \(t1\).class_map: expected .* of the training data.*class 0 is 'red' here and 'green' there"
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert all(
        torch.equal(value, before[name])
        for name, value in runner.model.student.state_dict().items()
    )
    pairs = [dict(student='neck[0]', teacher='neck[0]')]
    mapped = [dict(taught[0], class_map=[1, 0, 2])]
    maps = dict(hint=dict(type='Hint', pairs=pairs))  # they have no classes
    for allowed in (
        small.distiller(tmp_path, detector, mapped),
        small.distiller(tmp_path, detector, taught, methods=maps),
    ):
        assert small.total(allowed, small.losses_of(allowed, small.batch_for('gfl'))).isfinite()


def test_teachers_of_different_class_names_are_an_error_at_once(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    one, other = small.teacher(tmp_path, detector, 1), small.teacher(tmp_path, detector, 2)
    taught = [named(one, ('a', 'b', 'c')), named(other, ('a', 'c', 'b'))]
    with pytest.raises(
        ValueError,
        match=r"^teachers\[1\] \(t2\).class_map: .* of t1.*class 1 is 'b' here and 'c' there",
    ):
        small.distiller(tmp_path, detector, taught)
    small.distiller(tmp_path, detector, [taught[0], dict(taught[1], class_map=[0, 2, 1])])


@pytest.mark.parametrize('task_weight', [0, 1])
def test_a_classifier_in_a_detectors_run_is_an_error_before_the_first_step(
    task_weight: int, tmp_path: Path
) -> None:
    """It and its teachers agree with each other, but not with the data."""
    runner = run(tmp_path, tiny.distiller_config(tmp_path, task_weight=task_weight))
    message = r'^student: expected a model for detection, as the training data are, got one for classification$'
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


def test_a_detector_in_a_classifiers_run_is_one_too(tmp_path: Path) -> None:
    runner = tiny.runner(config(tmp_path), tmp_path / 'run')
    message = r'^student: expected a model for classification, as the training data are, got one for detection$'
    with pytest.raises(ValueError, match=message):
        runner.train()


def test_classifiers_that_learn_from_each_other_in_a_detectors_run(tmp_path: Path) -> None:
    runner = run(
        tmp_path, tiny.mutual_config(), val_dataloader=None, val_evaluator=None, val_cfg=None,
        optim_wrapper=tiny.peer_optimizers(),
    )  # fmt: skip
    with pytest.raises(
        ValueError,
        match=r'^peers\[0\] \(a\): expected a model for detection, as the training data are, got one for class',
    ):
        runner.train()


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    """With everything that has a state: weightings, their optimizer, the statistics of connectors."""
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
    """The same weights, with the names that their training wrote beside them."""
    content = torch.load(teacher['checkpoint'])
    torch.save(dict(content, meta=dict(dataset_meta=dict(classes=classes))), teacher['checkpoint'])
    return teacher


def test_a_mapped_teacher_predicts_in_the_students_classes(tmp_path: Path) -> None:
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


def test_mmdets_hooks_find_the_students_head(tmp_path: Path) -> None:
    """YOLOX's own hook switches a loss on for the last epochs."""
    model = small.distiller(tmp_path, small.detector('yolox'))
    runner = Mock(model=model, epoch=290, max_epochs=300)
    runner.train_dataloader.dataset.pipeline.transforms = []
    hook = YOLOXModeSwitchHook(num_last_epochs=10, skip_type_keys=())
    hook.before_train_epoch(runner)
    assert model.student.bbox_head.use_l1 and not model.teachers[0].model.bbox_head.use_l1
    assert 'task.loss_l1' in small.losses_of(model, small.batch_for('yolox'))
    assert not hasattr(tiny.distiller(tmp_path), 'bbox_head')
