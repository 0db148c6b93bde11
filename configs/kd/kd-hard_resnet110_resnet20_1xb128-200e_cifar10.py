# Hard targets: the class that the teacher predicts, with the weight of the label, as in DeiT.
_base_ = 'kd_resnet110_resnet20_1xb128-200e_cifar10.py'

model = dict(
    task_weight=0.5,
    methods=dict(_delete_=True, hard=dict(type='HardTarget', loss_weight=0.5)),
)
