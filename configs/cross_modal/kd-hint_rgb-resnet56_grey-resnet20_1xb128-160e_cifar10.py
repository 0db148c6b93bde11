# Train first: baselines/resnet56_1xb128-160e_cifar10.py
_base_ = [
    '../baselines/resnet20_1xb128-160e_cifar10.py',
    '../_base_/teachers/resnet56_cifar10.py',
]

# CIFAR-10 is stored as RGB. These are the mean and the standard deviation of its grey images.
data_preprocessor = dict(mean=[122.6], std=[61.0])
grey = dict(
    type='RandomGrayscale', prob=1.0, channel_weights=(0.299, 0.587, 0.114), color_format='rgb'
)
geometry = [
    dict(type='RandomCrop', crop_size=32, padding=4, padding_mode='reflect'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
pack = dict(type='PackInputs')
student_network = _base_.model
student_network.backbone.in_channels = 1
in_colour = _base_.teacher
in_colour.view = dict(pipeline=[*geometry, pack])

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=student_network,
    teachers=[in_colour],
    methods=dict(
        kd=dict(type='SoftTarget', temperature=4.0),
        hint=dict(type='Hint', pairs=[dict(student='backbone.layer3', teacher='backbone.layer3')]),
    ),
)
in_grey = _base_.train_dataloader.dataset
in_grey.pipeline = [grey, *geometry, pack]
train_dataloader = dict(
    dataset=dict(_delete_=True, type='mmkd_plugin.MultiViewDataset', dataset=in_grey)
)
val_dataloader = dict(dataset=dict(pipeline=[grey, pack]))
test_dataloader = dict(dataset=dict(pipeline=[grey, pack]))
custom_hooks = [dict(type='mmkd_plugin.SaveStudent')]
