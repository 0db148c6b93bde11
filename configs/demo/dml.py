# Deep mutual learning: two ResNet-8, alike but for their random first weights, learn from the labels and from each other.
_base_ = 'student_alone.py'

model = dict(
    _delete_=True,
    type='mmkd_plugin.MutualDistiller',
    peers=[dict(name='a', model={{_base_.model}}), dict(name='b', model={{_base_.model}})],
    methods=dict(dml=dict(type='SoftTarget', temperature=1.0)),
    order='alternating',
)
optim_wrapper = dict(
    constructor='mmkd_plugin.PeerOptimWrappers'
)  # one optimizer each, of the same config
model_wrapper_cfg = dict(type='mmkd_plugin.PeerDataParallel')  # where there are several processes
val_cfg = dict(type='mmkd_plugin.PeerValLoop')  # each by its name, their mean, their ensemble
test_cfg = dict(type='mmkd_plugin.PeerTestLoop')
custom_hooks = [
    dict(type='mmkd_plugin.SaveStudent')
]  # epoch_30_a.pth and epoch_30_b.pth load into stock MMPretrain
