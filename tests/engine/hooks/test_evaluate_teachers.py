"""Evaluation of the teachers before training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmengine.runner import Runner

from mmkd_plugin.engine.hooks import EvaluateTeachers
from mmkd_plugin.errors import ConfigError
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


def test_evaluate_teachers_scores_each_teacher_as_a_plain_run_does(tmp_path: Path) -> None:
    run = _run(tmp_path)
    run.train()
    images = tiny.TinyImages(seed=1)
    for teacher, score in zip(run.model.teachers, run.model.teacher_scores.tolist(), strict=True):
        config = network_config(
            tiny.classifier(base_channels=6), 'network', data_preprocessor=tiny.preprocessor()
        )
        alone = build_network(config, 'network').eval()
        alone.load_state_dict(torch.load(teacher.checkpoint)['state_dict'])
        batch = torch.stack([images[i]['inputs'] for i in range(16)])
        predicted = alone((batch.float() - 120) / 60).argmax(dim=1)
        right = sum(int(predicted[i]) == i % tiny.CLASSES for i in range(16))
        assert score == pytest.approx(100 * right / 16)


def test_evaluate_teachers_in_a_resumed_run_keep_the_scores_and_the_order(
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
    mapping = first.model.methods['amtml'].hints.group_mapping
    best = max(range(3), key=lambda index: (scores[index], -index))
    assert mapping.groups()[best] == 2  # the best teacher supervises the highest of three groups
    again = _run(
        tmp_path, model=model, iters=2, resume=True, val_evaluator=dict(type='Accuracy', topk=(1,))
    )
    evaluated: list[str] = []
    for teacher in again.model.teachers:
        teacher.predict = lambda *args, name=teacher.name: evaluated.append(name)
    again.train()
    assert evaluated == []
    assert again.model.teacher_scores.tolist() == scores
    assert again.model.methods['amtml'].hints.group_mapping.groups() == mapping.groups()


def test_evaluate_teachers_below_min_score_raise_before_the_first_step(tmp_path: Path) -> None:
    run = _run(
        tmp_path, dict(type='mmkd_plugin.EvaluateTeachers', metric='accuracy/top1', min_score=99.0)
    )
    with pytest.raises(ConfigError) as caught:
        run.train()
    error = caught.value
    assert error.key == 'teachers[0] (t0)'
    assert 'accuracy/top1' in error.problem and 'at least 99.0' in error.problem
    assert 'checkpoint' in error.fix
    assert 0 <= float(str(error.found)) < 99  # the score that was measured
    assert run.iter == 0


def test_evaluate_teachers_with_rule_less_raise_above_min_score(tmp_path: Path) -> None:
    run = _run(tmp_path, dict(type='mmkd_plugin.EvaluateTeachers', rule='less', min_score=-1.0))
    with pytest.raises(ConfigError) as caught:
        run.train()
    assert caught.value.key == 'teachers[0] (t0)' and 'at most -1.0' in caught.value.problem


def test_evaluate_teachers_with_an_unknown_metric_raise(tmp_path: Path) -> None:
    run = _run(tmp_path, dict(type='mmkd_plugin.EvaluateTeachers', metric='accuracy'))
    with raises_config_error('EvaluateTeachers.metric', 'accuracy', "['accuracy/top1']"):
        run.train()


@METRICS.register_module(force=True)
class Measured(BaseMetric):
    """A metric with given values, for each teacher in turn."""

    default_prefix = 'own'

    def __init__(self, values: list[dict[str, float]]) -> None:
        super().__init__()
        self.values = list(values)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [0] * len(data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]


def _ranked(folder: Path, values: list[dict[str, float]], **changes: Any) -> Runner:
    hook = dict(type='mmkd_plugin.EvaluateTeachers', **changes.pop('hook', {}))
    model = tiny.distiller_config(
        folder,
        teachers=tiny.teachers(folder, 2),
        methods=dict(amtml=tiny.amtml(mapping='best_high')),
    )
    return _run(
        folder, hook, model=model, val_evaluator=dict(type='Measured', values=values), **changes
    )


def _best(run: Runner) -> int:
    """Return the teacher of the highest group."""
    groups = run.model.methods['amtml'].hints.group_mapping.groups()
    return max(range(2), key=lambda index: groups[index])


VALUES = [dict(acc=1.0, mIoU=3.0), dict(acc=2.0, mIoU=1.0), dict(acc=0.0, mIoU=0.0)]


@pytest.mark.parametrize(
    ('hook', 'save_best', 'best'),
    [
        ({}, None, 1),  # the first metric
        (dict(metric='own/mIoU'), None, 0),
        (dict(metric='mIoU'), None, 0),  # without its prefix
        (dict(metric='acc', rule='less'), None, 0),
        ({}, 'own/mIoU', 0),  # by which the run keeps its best checkpoint
        ({}, 'auto', 1),
    ],
)
def test_evaluate_teachers_rank_by_the_metric_that_the_config_names(
    tmp_path: Path, hook: dict[str, Any], save_best: str | None, best: int
) -> None:
    checkpoint = dict(type='CheckpointHook', by_epoch=False, save_best=save_best)
    run = _ranked(tmp_path, VALUES, hook=hook, default_hooks=dict(checkpoint=checkpoint))
    run.train()
    assert _best(run) == best


def test_evaluate_teachers_rank_by_the_rule_of_save_best(tmp_path: Path) -> None:
    values = [dict(NME=0.2), dict(NME=0.1), dict(NME=0.0)]
    checkpoint = dict(type='CheckpointHook', by_epoch=False, save_best='own/NME', rule='less')
    run = _ranked(tmp_path, values, default_hooks=dict(checkpoint=checkpoint))
    run.train()
    assert _best(run) == 1


def test_evaluate_teachers_by_a_metric_without_a_rule_raise_where_the_order_counts(
    tmp_path: Path,
) -> None:
    run = _ranked(tmp_path, [dict(NME=0.2), dict(NME=0.1)])
    with raises_config_error('EvaluateTeachers.rule', None, "'own/NME'", fix='rule=…'):
        run.train()
    assert run.iter == 0


def test_evaluate_teachers_with_a_metric_that_is_no_number_raise(tmp_path: Path) -> None:
    run = _ranked(tmp_path, [dict(acc=0.2), dict(acc=float('nan'))])
    with pytest.raises(ConfigError) as caught:
        run.train()
    assert caught.value.key == 'teachers[1] (t1)' and caught.value.found == 'nan'


def test_evaluate_teachers_without_a_validation_set_raise(tmp_path: Path) -> None:
    run = _run(tmp_path, val_dataloader=None, val_evaluator=None, val_cfg=None)
    with pytest.raises(ConfigError) as caught:
        run.train()
    assert caught.value.key == 'val_dataloader' and 'val_evaluator' in caught.value.fix


def test_evaluate_teachers_in_a_plain_run_raise(tmp_path: Path) -> None:
    student = dict(tiny.classifier(), data_preprocessor=tiny.preprocessor())
    run = _run(tmp_path, model=student)
    mentions = 'EvaluateTeachers', 'mmkd_plugin.Distiller'
    with raises_config_error('custom_hooks', 'ImageClassifier', *mentions, fix='Remove'):
        run.train()


@pytest.mark.parametrize(
    ('name', 'value'),
    [('rule', 'most'), ('min_score', float('nan')), ('min_score', '50')],
)
def test_evaluate_teachers_with_a_wrong_setting_raise(name: str, value: Any) -> None:
    with raises_config_error(f'EvaluateTeachers.{name}', value):
        EvaluateTeachers(**{name: value})
