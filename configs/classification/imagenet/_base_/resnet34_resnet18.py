# ResNet-34 teaches ResNet-18; data and schedule are those of MMPretrain, for 8 GPUs with 32 images each.
_base_ = ['mmpretrain::resnet/resnet18_8xb32_in1k.py', 'teacher_resnet34.py']

model = dict(
    _delete_=True, type='mmkd_plugin.Distiller', student=_base_.model, teachers=[_base_.teacher]
)
pairs = [dict(student='backbone.layer4', teacher=_base_.teacher_map, checkpoint=_base_.paraphraser)]
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=70.0),
    dict(type='mmkd_plugin.SaveStudent'),
]
