# IE-KD on three levels of the pyramid. Student, data and schedule are MMDet's; the weights are the
# paper's for classification.
# Train first: ie_kd/paraphraser-p3_retinanet_r101_fpn_8xb2-1e_coco.py, and p4 and p5 alike.
_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    '../_base_/teachers/retinanet_r101_coco.py',
    '../_base_/hooks/coco.py',
]

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[_base_.teacher],
    methods=dict(
        ie=dict(
            type='IEKD',
            pairs=_base_.pairs,
            reduction='size_invariant',  # a level has 100 times the elements of a CIFAR-10 map
            encoder=dict(norm='gn'),  # two images a GPU are few for BatchNorm
        )
    ),
)
