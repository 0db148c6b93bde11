"""Hooks: one job a file, added by ``custom_hooks=[dict(type='mmkd_plugin.EvaluateTeachers'), …]``."""

from mmkd_plugin.hooks.evaluate_teachers import EvaluateTeachers
from mmkd_plugin.hooks.freeze_teacher_weights import FreezeTeacherWeights
from mmkd_plugin.hooks.log_teacher_weights import LogTeacherWeights
from mmkd_plugin.hooks.measure_logits import MeasureLogits
from mmkd_plugin.hooks.save_student import SaveStudent

__all__ = ['EvaluateTeachers', 'FreezeTeacherWeights', 'LogTeacherWeights', 'MeasureLogits', 'SaveStudent']
