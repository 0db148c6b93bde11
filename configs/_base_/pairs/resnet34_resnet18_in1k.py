# Teacher: ResNet-34. Student: ResNet-18. Data and schedule are MMPretrain's, for 8 GPUs with 32
# images each.
_base_ = [
    'mmpretrain::resnet/resnet18_8xb32_in1k.py',
    '../teachers/resnet34_in1k.py',
    '../hooks/in1k.py',
]

model = dict(
    _delete_=True, type='mmkd_plugin.Distiller', student=_base_.model, teachers=[_base_.teacher]
)
pairs = [dict(student='backbone.layer4', teacher=_base_.teacher_map, checkpoint=_base_.paraphraser)]
