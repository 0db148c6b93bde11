# RetinaNet-R101 teaches RetinaNet-R50 by IE-KD on three levels of their pyramids. After the three paraphraser_p*.py.
# Student, data and schedule are MMDet's, for 8 GPUs with 2 images each. The weights are the paper's for classification.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '_base_/teacher_retinanet_r101.py']

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[_base_.teacher],
    methods=dict(
        ie=dict(
            type='IEKD',
            pairs=_base_.pairs,
            reduction='size_invariant',  # a level has a hundred times as many elements as a map of CIFAR-10
            encoder=dict(norm='gn'),  # two images a GPU are few for BatchNorm
        )
    ),
)
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=0.35),
    dict(type='mmkd_plugin.SaveStudent'),
]
