"""Evaluation of the teachers before training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd_plugin.adapters import Teacher
from mmkd_plugin.adapters.compat import require_names_of_data
from mmkd_plugin.engine.hooks.run_distiller import run_distiller
from mmkd_plugin.errors import ConfigError, one_of
from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class EvaluateTeachers(Hook):
    """Evaluate every teacher on the validation set, by the run's own evaluator, before training.

    A teacher at chance level does not show in a loss curve: wrong weights, wrong normalisation,
    another order of classes. Scores are logged as ``teacher/<name>/<metric>``. They rank the
    teachers for methods that map them by quality. A resumed run keeps the scores of its beginning.

    Args:
        metric: The metric that ranks, by the evaluator's name. Default: its first.
        rule: Whether ``'greater'`` or ``'less'`` is better.
        min_score: Stop the run if a teacher scores worse.

    Raises:
        ConfigError: Before training, if there is no validation set or no such metric, or if a
            teacher scores worse than ``min_score``.
    """

    priority = 'VERY_HIGH'

    def __init__(
        self, metric: str | None = None, rule: str = 'greater', min_score: float | None = None
    ) -> None:
        self.metric = metric
        self.rule = one_of('EvaluateTeachers.rule', rule, ('greater', 'less'))
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
            self._log(runner, distiller, scores, 'as measured when the run began')
            return
        if runner.val_loop is None:
            raise ConfigError(
                'val_dataloader',
                'EvaluateTeachers needs a validation set and an evaluator',
                'Add val_dataloader, val_evaluator and val_cfg, or remove the hook.',
            )
        meta = getattr(runner.train_dataloader.dataset, 'metainfo', {})
        require_names_of_data(distiller.teachers, meta.get('classes'))  # before the evaluation
        scores = self._scores([self._evaluate(runner, one) for one in distiller.teachers])
        self._log(runner, distiller, scores, 'on the validation set')
        for teacher, score in zip(distiller.teachers, scores, strict=True):
            if self.min_score is not None and not self._at_least(score, self.min_score):
                bound = 'at least' if self.rule == 'greater' else 'at most'
                raise ConfigError(
                    teacher.key,
                    f'must have {self.metric} of {bound} {self.min_score} '
                    '(EvaluateTeachers.min_score)',
                    'Check its checkpoint, data_preprocessor and class order.',
                    found=float(f'{score:.4g}'),
                )
        distiller.set_teacher_scores(scores, greater_is_better=self.rule == 'greater')

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

    def _scores(self, measured: Sequence[Mapping[str, float]]) -> list[float]:
        """Return each teacher's score: 0 if nothing was detected, where CocoMetric returns none."""
        names = list(dict.fromkeys(name for metrics in measured for name in metrics))
        if self.metric is None and names:
            self.metric = names[0]
        if names and self.metric not in names:
            raise ConfigError(
                'EvaluateTeachers.metric', f'must be one of {names}', found=self.metric
            )
        return [float(metrics.get(str(self.metric), 0.0)) for metrics in measured]

    def _log(
        self, runner: Runner, distiller: Distiller, scores: Sequence[float], when: str
    ) -> None:
        best_first = sorted(
            range(len(scores)), key=lambda i: scores[i], reverse=self.rule == 'greater'
        )
        listed = ', '.join(f'{distiller.teachers[i].name} {scores[i]:.4g}' for i in best_first)
        runner.logger.info(f'Teachers, best first, {self.metric or "score"} {when}: {listed}')

    def _at_least(self, score: float, bound: float) -> bool:
        return score >= bound if self.rule == 'greater' else score <= bound
