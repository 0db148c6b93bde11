# Hooks of a run with teachers on CIFAR-10. A teacher with accuracy below min_score stops the run.
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=85.0),
    dict(type='mmkd_plugin.SaveStudent'),
]
