"""Detectors in MMEngine's Runner, on data sets of MMDet's on disk, with MMDet's own evaluator."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import tiny
import tiny_coco
import tiny_detection as small
import torch
from mmdet.engine.hooks import YOLOXModeSwitchHook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmkd_plugin.checkpoint import load_weights
from mmkd_plugin.networks import build_network
from mmkd_plugin.teacher import Teacher

METRIC = 'coco/bbox_mAP'


def run(folder: Path, model: dict[str, Any], iters: int = 2, **changes: Any) -> Runner:
    """A Runner that trains and then evaluates, as a stock config's does."""
    if not (folder / 'annotations.json').exists():
        tiny_coco.write(folder)
    init_default_scope('mmdet')
    loader = dict(
        batch_size=2, num_workers=0, dataset=tiny_coco.dataset(folder, False), sampler=dict(type='DefaultSampler')
    )
    settings = dict(
        dataset=tiny_coco.dataset(folder),
        batch=2,
        val_dataloader=loader,
        val_evaluator=dict(type='CocoMetric', ann_file=str(folder / 'annotations.json'), metric='bbox'),
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
    return {**dict(type='mmkd_plugin.Distiller', student=detector, teachers=taught, methods=methods), **changes}


def detectable(family: str) -> dict[str, Any]:
    """It reports what it sees from its first step on."""
    option = 'test_cfg__score_thr' if family == 'gfl' else 'test_cfg__rcnn__score_thr'
    return small.detector(family, **{option: 0.001})


@pytest.mark.slow
@pytest.mark.parametrize('family', ['gfl', 'faster_rcnn'])
def test_a_run_trains_evaluates_teachers_and_student_and_saves_the_student_alone(family: str, tmp_path: Path) -> None:
    hooks = [dict(type='mmkd_plugin.EvaluateTeachers', metric=METRIC), dict(type='mmkd_plugin.SaveStudent')]
    runner = run(tmp_path, config(tmp_path, family), custom_hooks=hooks)
    runner.train()
    scores = runner.model.teacher_scores.tolist()
    assert all(0 <= score <= 1 for score in scores)
    logged = [
        json.loads(line) for line in next((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text().splitlines()
    ]
    assert {f'teacher/t1/{METRIC}', f'teacher/t2/{METRIC}'} <= {key for line in logged for key in line}
    assert any(METRIC in line for line in logged), 'the student is evaluated as any detector is'
    assert any('kd.loss_kd' in line and 'task.loss_cls' in line for line in logged)
    student = tmp_path / 'run' / 'iter_2_student.pth'
    alone = build_network(detectable(family), 'student').eval()
    loaded = load_weights(alone, str(student), 'student')
    assert loaded.classes == tiny_coco.CLASSES
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


def test_teachers_of_different_class_names_are_an_error_at_once(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    one, other = small.teacher(tmp_path, detector, 1), small.teacher(tmp_path, detector, 2)
    taught = [named(one, ('a', 'b', 'c')), named(other, ('a', 'c', 'b'))]
    with pytest.raises(
        ValueError, match=r"^teachers\[1\] \(t2\).class_map: .* of t1.*class 1 is 'b' here and 'c' there"
    ):
        small.distiller(tmp_path, detector, taught)
    small.distiller(tmp_path, detector, [taught[0], dict(taught[1], class_map=[0, 2, 1])])


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
    own, renamed = (one.predict(small.batch_for('gfl'), torch.device('cpu')) for one in (plain, mapped))
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
