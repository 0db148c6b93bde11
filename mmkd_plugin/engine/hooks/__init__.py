"""Hooks, added by ``custom_hooks=[dict(type='mmkd_plugin.EvaluateTeachers'), …]``."""

from mmkd_plugin.engine.hooks.allow_runner_checkpoints import AllowRunnerCheckpoints
from mmkd_plugin.engine.hooks.evaluate_teachers import EvaluateTeachers
from mmkd_plugin.engine.hooks.freeze_teacher_weights import FreezeTeacherWeights
from mmkd_plugin.engine.hooks.log_gradient_norms import LogGradientNorms
from mmkd_plugin.engine.hooks.log_teacher_weights import LogTeacherWeights
from mmkd_plugin.engine.hooks.measure_logits import MeasureLogits
from mmkd_plugin.engine.hooks.save_student import SaveStudent

__all__ = [
    'AllowRunnerCheckpoints',
    'EvaluateTeachers',
    'FreezeTeacherWeights',
    'LogGradientNorms',
    'LogTeacherWeights',
    'MeasureLogits',
    'SaveStudent',
]
