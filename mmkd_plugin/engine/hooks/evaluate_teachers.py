"""Measure the teachers before they teach."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.engine.hooks.distiller_of import distiller_of
from mmkd_plugin.errors import one_of
from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.models.distillers.class_names import require_names_of_data
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class EvaluateTeachers(Hook):
    """Evaluate every teacher on the validation set, by the run's own evaluator, before the first training step.

    A teacher at chance level teaches nothing, and nothing in a loss curve shows it: wrong weights, wrong normalisation, another order of
    classes. Scores are logged as ``teacher/<name>/<metric>``, and rank the teachers for methods that map them by quality. A resumed run
    keeps the scores it began with.

    Args:
        metric: The score that ranks, as the run's evaluator names it. Default: its first.
        rule: Whether ``'greater'`` or ``'less'`` is better.
        min_score: A teacher that scores worse ends the run.

    Raises:
        ValueError: Before training, if there is no validation set, no such metric, or a teacher is too bad.
    """

    priority = 'VERY_HIGH'

    def __init__(
        self, metric: str | None = None, rule: str = 'greater', min_score: float | None = None
    ) -> None:
        self.metric = metric
        self.rule = one_of('EvaluateTeachers.rule', rule, ('greater', 'less'))
        if min_score is not None and not (
            isinstance(min_score, (int, float)) and math.isfinite(min_score)
        ):
            raise ValueError(f'EvaluateTeachers.min_score: expected a number, got {min_score!r}')
        self.min_score = min_score

    def before_train(self, runner: Runner) -> None:
        distiller = distiller_of(runner, self)
        if not distiller.teachers:  # no method has a weight
            return
        if distiller.teacher_scores.isfinite().all():
            self._announce(
                runner,
                distiller,
                distiller.teacher_scores.tolist(),
                'as measured when the run began',
            )
            return
        if runner.val_loop is None:
            raise ValueError(
                'val_dataloader: expected a validation set and evaluator for EvaluateTeachers, got none'
            )
        meta = getattr(runner.train_dataloader.dataset, 'metainfo', {})
        require_names_of_data(
            distiller.teachers, meta.get('classes')
        )  # before they are measured for nothing
        scores = self._scores([self._evaluate(runner, teacher) for teacher in distiller.teachers])
        self._announce(runner, distiller, scores, 'on the validation set')
        for teacher, score in zip(distiller.teachers, scores, strict=True):
            if self.min_score is not None and not self._at_least(score, self.min_score):
                raise ValueError(
                    f'{teacher.key}: expected {self.metric} of {"at least" if self.rule == "greater" else "at most"} '
                    f'{self.min_score} (EvaluateTeachers.min_score), measured {score:.4g}: such a teacher teaches nothing; '
                    'check its checkpoint, data_preprocessor and class order'
                )
        distiller.set_teacher_scores(scores, greater_is_better=self.rule == 'greater')

    def _evaluate(self, runner: Runner, teacher: Teacher) -> dict[str, float]:
        loop: Any = runner.val_loop
        device = next(runner.model.parameters()).device
        runner.logger.info(
            f'Evaluating the teacher {teacher.name} on {len(loop.dataloader.dataset)} validation images'
        )
        for batch in loop.dataloader:
            loop.evaluator.process(data_samples=teacher.predict(batch, device), data_batch=batch)
        metrics: dict[str, float] = loop.evaluator.evaluate(len(loop.dataloader.dataset))
        runner.visualizer.add_scalars(
            {f'teacher/{teacher.name}/{name}': value for name, value in metrics.items()}, step=0
        )
        return metrics

    def _scores(self, measured: Sequence[Mapping[str, float]]) -> list[float]:
        """Each teacher's score by the metric that ranks. CocoMetric gives none at all where nothing was detected: that is 0."""
        names = list(dict.fromkeys(name for metrics in measured for name in metrics))
        if self.metric is None and names:
            self.metric = names[0]
        if names and self.metric not in names:
            raise ValueError(
                f'EvaluateTeachers.metric: expected one of {names}, got {self.metric!r}'
            )
        return [float(metrics.get(str(self.metric), 0.0)) for metrics in measured]

    def _announce(
        self, runner: Runner, distiller: Distiller, scores: list[float], when: str
    ) -> None:
        best_first = sorted(
            range(len(scores)), key=lambda i: scores[i], reverse=self.rule == 'greater'
        )
        listed = ', '.join(f'{distiller.teachers[i].name} {scores[i]:.4g}' for i in best_first)
        runner.logger.info(f'Teachers, best first, {self.metric or "score"} {when}: {listed}')

    def _at_least(self, score: float, bound: float) -> bool:
        return score >= bound if self.rule == 'greater' else score <= bound
