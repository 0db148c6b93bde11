"""Evaluation of the teachers before training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmkd_plugin.adapters import Teacher
from mmkd_plugin.adapters.compat import require_names_of_data
from mmkd_plugin.engine.hooks.run_distiller import run_distiller
from mmkd_plugin.errors import ConfigError, one_of
from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.models.methods.group_mapping import GroupMapping
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class EvaluateTeachers(Hook):
    """Evaluate every teacher on the validation set, by the run's own evaluator, before training.

    A teacher at chance level does not show in a loss curve: wrong weights, wrong normalisation,
    another order of classes. Scores are logged as ``teacher/<name>/<metric>``. They rank the
    teachers for methods that map them by quality. A resumed run keeps the scores of its beginning.

    Args:
        metric: The metric that ranks, by the evaluator's name, with or without its prefix.
            Default: that of the run's ``save_best``, or the evaluator's first.
        rule: Whether ``'greater'`` or ``'less'`` is better. Default: the rule that MMEngine's
            ``save_best`` has for this metric.
        min_score: Stop the run if a teacher scores worse.

    Raises:
        ConfigError: Before training, if there is no validation set or no such metric, if the rule
            is needed and MMEngine has none for the metric, or if a teacher scores worse than
            ``min_score``.
    """

    priority = 'VERY_HIGH'

    def __init__(
        self, metric: str | None = None, rule: str | None = None, min_score: float | None = None
    ) -> None:
        self.metric = metric
        self.rule = rule and one_of('EvaluateTeachers.rule', rule, ('greater', 'less'))
        number = isinstance(min_score, (int, float)) and math.isfinite(min_score)
        if min_score is not None and not number:
            raise ConfigError('EvaluateTeachers.min_score', 'must be a number', found=min_score)
        self.min_score = min_score

    def before_train(self, runner: Runner) -> None:
        distiller = run_distiller(runner, self)
        if not distiller.teachers:  # no method has a weight
            return
        if distiller.teacher_scores.isfinite().all():
            scores = distiller.teacher_scores.tolist()
            self.metric = self.metric or next(iter(_rules_of_run(runner)), None)
            self._log(runner, distiller, scores, 'as measured when the run began')
            return
        if runner.val_loop is None:
            raise ConfigError(
                'val_dataloader',
                'EvaluateTeachers needs a validation set and an evaluator',
                'Add val_dataloader, val_evaluator and val_cfg, or remove the hook.',
            )
        meta = getattr(runner.train_dataloader.dataset, 'metainfo', None)
        require_names_of_data(distiller.teachers, meta)  # before the evaluation
        measured = [self._evaluate(runner, one) for one in distiller.teachers]
        best = _rules_of_run(runner)
        self._choose_metric(measured, next(iter(best), None))
        scores = self._scores(distiller.teachers, measured)
        if self.rule is None and self.metric is not None:
            rule = best.get(self.metric)
            self.rule = rule or self._usual_rule(self.metric, self._is_needed(distiller))
        self._log(runner, distiller, scores, 'on the validation set')
        for teacher, score in zip(distiller.teachers, scores, strict=True):
            if self.min_score is not None and not self._at_least(score, self.min_score):
                bound = 'at most' if self.rule == 'less' else 'at least'
                raise ConfigError(
                    teacher.key,
                    f'must have {self.metric} of {bound} {self.min_score} '
                    '(EvaluateTeachers.min_score)',
                    'Check its checkpoint, data_preprocessor and class order.',
                    found=float(f'{score:.4g}'),
                )
        distiller.set_teacher_scores(scores, greater_is_better=self.rule != 'less')

    def _evaluate(self, runner: Runner, teacher: Teacher) -> dict[str, float]:
        loop: Any = runner.val_loop
        device = next(runner.model.parameters()).device
        number = len(loop.dataloader.dataset)
        runner.logger.info(f'Teacher {teacher.name}: evaluating on {number} validation images')
        for batch in loop.dataloader:
            predictions = teacher.predict(batch, device)
            loop.evaluator.process(data_samples=predictions, data_batch=batch)
        metrics: dict[str, float] = loop.evaluator.evaluate(number)
        scalars = {f'teacher/{teacher.name}/{name}': value for name, value in metrics.items()}
        runner.visualizer.add_scalars(scalars, step=0)
        return metrics

    def _choose_metric(self, measured: Sequence[Mapping[str, Any]], best: str | None) -> None:
        """Set the full name of the metric that ranks."""
        numbers = (int, float, np.number)
        names = list(
            dict.fromkeys(
                name
                for found in measured
                for name, one in found.items()
                if isinstance(one, numbers)
            )
        )
        if not names:  # CocoMetric returns nothing if nothing was detected
            return
        wanted = self.metric or best or names[0]
        fitting = [one for one in names if one == wanted]
        fitting = fitting or [one for one in names if one.rpartition('/')[2] == wanted]
        if len(fitting) != 1:
            raise ConfigError('EvaluateTeachers.metric', f'must be one of {names}', found=wanted)
        self.metric = fitting[0]

    def _scores(
        self, teachers: Sequence[Teacher], measured: Sequence[Mapping[str, Any]]
    ) -> list[float]:
        """Return each teacher's score: 0 if nothing was detected, where CocoMetric returns none."""
        scores = [float(metrics.get(str(self.metric), 0.0)) for metrics in measured]
        for teacher, score in zip(teachers, scores, strict=True):
            if not math.isfinite(score):
                raise ConfigError(
                    teacher.key,
                    f'must have a finite {self.metric} on the validation set',
                    'Check its checkpoint, or name another metric in EvaluateTeachers.metric.',
                    found=score,
                )
        return scores

    def _is_needed(self, distiller: Distiller) -> bool:
        """Return whether the order of the teachers changes the run."""
        ranked = any(
            isinstance(one, GroupMapping) and one.needs_order for one in distiller.methods.modules()
        )
        return self.min_score is not None or ranked

    def _usual_rule(self, metric: str, needed: bool) -> str:
        """Return the rule by which MMEngine keeps the best checkpoint."""
        try:
            [rule] = CheckpointHook(save_best=metric).rules
        except ValueError as error:
            if not needed:
                return 'greater'
            raise ConfigError(
                'EvaluateTeachers.rule',
                f"must be 'greater' or 'less' for the metric {metric!r}: MMEngine has no rule for "
                'it',
                f"Write dict(type='mmkd_plugin.EvaluateTeachers', metric={metric!r}, rule=…).",
                found=None,
            ) from error
        return str(rule)

    def _log(
        self, runner: Runner, distiller: Distiller, scores: Sequence[float], when: str
    ) -> None:
        best_first = sorted(
            range(len(scores)), key=lambda i: scores[i], reverse=self.rule != 'less'
        )
        listed = ', '.join(f'{distiller.teachers[i].name} {scores[i]:.4g}' for i in best_first)
        runner.logger.info(f'Teachers, best first, {self.metric or "score"} {when}: {listed}')

    def _at_least(self, score: float, bound: float) -> bool:
        return score <= bound if self.rule == 'less' else score >= bound


def _rules_of_run(runner: Runner) -> dict[str, str]:
    """Return the metrics by which the run keeps its best checkpoints, with their rules."""
    return {
        str(metric): str(rule)
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and hook.save_best
        for metric, rule in zip(hook.key_indicators, hook.rules, strict=True)
        if metric != 'auto'
    }
