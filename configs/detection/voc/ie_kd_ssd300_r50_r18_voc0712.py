# IE-KD on VOC: SSD300-R50 teaches SSD300-R18 on their last stages. After ssd300_r50_voc0712.py and paraphraser_*.py.
# Reconstructed: the paper gives 71.61 to 73.51 mAP for ResNet-50 to ResNet-18, but neither layer, weights nor schedule.
_base_ = ['_base_/ssd300_resnet18.py', '_base_/teacher_ssd300_r50.py']

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[_base_.teacher],
    methods=dict(
        ie=dict(
            type='IEKD',
            pairs=[
                dict(
                    student='backbone[2]', teacher=_base_.teacher_map, checkpoint=_base_.paraphraser
                )
            ],
            inherit_weight=50.0,
            explore_weight=50.0,
            reduction='size_invariant',
        )
    ),
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=0.5),
    dict(type='mmkd_plugin.SaveStudent'),
]
