# Hooks of a run with teachers on ImageNet. A teacher with accuracy below min_score stops the run.
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=70.0),
    dict(type='mmkd_plugin.SaveStudent'),
]
