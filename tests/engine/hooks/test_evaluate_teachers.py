from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from mmengine.runner import Runner

from mmkd_plugin.engine.hooks import EvaluateTeachers
from mmkd_plugin.loading.build import build_network, network_config


def _run(
    folder: Path, hook: dict[str, Any] | None = None, iters: int = 1, **changes: Any
) -> Runner:
    loader = dict(
        batch_size=8,
        num_workers=0,
        dataset=dict(type='TinyImages', seed=1),
        sampler=dict(type='DefaultSampler'),
    )
    config = dict(
        val_dataloader=loader,
        val_evaluator=dict(type='Accuracy', topk=(1,)),
        val_cfg=dict(),
        custom_hooks=[hook or dict(type='mmkd_plugin.EvaluateTeachers', metric='accuracy/top1')],
    )
    model = changes.pop('model', None) or tiny.distiller_config(
        folder, teachers=tiny.teachers(folder, 3)
    )
    return tiny.runner(model, folder / 'run', iters, **{**config, **changes})


def test_each_score_is_what_the_teacher_reaches_alone(tmp_path: Path) -> None:
    run = _run(tmp_path)
    run.train()
    images = tiny.TinyImages(seed=1)
    for teacher, score in zip(run.model.teachers, run.model.teacher_scores.tolist(), strict=True):
        config = network_config(
            tiny.classifier(base_channels=6), 'network', data_preprocessor=tiny.PREPROCESSOR
        )
        alone = build_network(config, 'network').eval()
        alone.load_state_dict(torch.load(teacher.checkpoint)['state_dict'])
        batch = torch.stack([images[i]['inputs'] for i in range(16)])
        predicted = alone((batch.float() - 120) / 60).argmax(dim=1)
        right = sum(int(predicted[i]) == i % tiny.CLASSES for i in range(16))
        assert score == pytest.approx(100 * right / 16)


def test_order_reaches_the_mapping_is_saved_and_survives_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny.distiller_config(
        tmp_path,
        teachers=tiny.teachers(tmp_path, 3),
        methods=dict(amtml=tiny.amtml(mapping='best_high')),
    )
    first = _run(tmp_path, model=model, iters=1)
    first.train()
    scores = first.model.teacher_scores.tolist()
    mapping = first.model.methods['amtml'].group_mapping
    best = max(range(3), key=lambda index: (scores[index], -index))
    assert mapping.groups()[best] == 2  # the best teacher supervises the highest of three groups
    again = _run(
        tmp_path, model=model, iters=2, resume=True, val_evaluator=dict(type='Accuracy', topk=(1,))
    )
    evaluated: list[str] = []
    for teacher in again.model.teachers:
        teacher.predict = lambda *args, name=teacher.name: evaluated.append(name)  # type: ignore[method-assign]
    again.train()
    assert evaluated == []  # the scores of the run's beginning stand
    assert again.model.teacher_scores.tolist() == scores
    assert again.model.methods['amtml'].group_mapping.groups() == mapping.groups()


def test_a_teacher_that_is_too_bad_ends_the_run_before_the_first_step(tmp_path: Path) -> None:
    run = _run(
        tmp_path, dict(type='mmkd_plugin.EvaluateTeachers', metric='accuracy/top1', min_score=99.0)
    )
    with pytest.raises(
        ValueError,
        match=r'teachers\[0\] \(t0\): expected accuracy/top1 of at least 99.0 .* measured',
    ):
        run.train()
    assert run.iter == 0


def test_less_can_be_better(tmp_path: Path) -> None:
    run = _run(tmp_path, dict(type='mmkd_plugin.EvaluateTeachers', rule='less', min_score=-1.0))
    with pytest.raises(ValueError, match=r'at most -1\.0'):
        run.train()


def test_an_unknown_metric_is_named(tmp_path: Path) -> None:
    run = _run(tmp_path, dict(type='mmkd_plugin.EvaluateTeachers', metric='accuracy'))
    with pytest.raises(
        ValueError,
        match=r"EvaluateTeachers.metric: expected one of \['accuracy/top1'\], got 'accuracy'",
    ):
        run.train()


def test_without_a_validation_set_it_says_so(tmp_path: Path) -> None:
    run = _run(tmp_path, val_dataloader=None, val_evaluator=None, val_cfg=None)
    with pytest.raises(ValueError, match='val_dataloader: expected a validation set'):
        run.train()


def test_in_another_run_it_says_so(tmp_path: Path) -> None:
    student = dict(tiny.classifier(), data_preprocessor=tiny.PREPROCESSOR)
    run = _run(tmp_path, model=student)
    with pytest.raises(
        ValueError,
        match=r'expected EvaluateTeachers in a run of mmkd_plugin\.Distiller, got ImageClassifier',
    ):
        run.train()


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [(dict(rule='most'), 'EvaluateTeachers.rule'), (dict(min_score=float('nan')), 'min_score')],
)
def test_bad_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateTeachers(**wrong)
