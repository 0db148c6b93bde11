# Hooks of a run with teachers on COCO. A teacher with mAP below min_score stops the run.
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=0.35),
    dict(type='mmkd_plugin.SaveStudent'),
]
