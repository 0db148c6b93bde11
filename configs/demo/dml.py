# Deep mutual learning: two ResNet-8 that differ in their random initial weights. The loss of each
# is that of the labels and the divergence from the other network's probabilities.
_base_ = 'student_alone.py'

model = dict(
    _delete_=True,
    type='mmkd_plugin.MutualDistiller',
    peers=[dict(name='a', model=_base_.model), dict(name='b', model=_base_.model)],
    methods=dict(dml=dict(type='SoftTarget', temperature=1.0)),
    order='alternating',
)
# One optimizer for each peer, of the same config.
optim_wrapper = dict(constructor='mmkd_plugin.PeerOptimWrappers')
model_wrapper_cfg = dict(type='mmkd_plugin.PeerDataParallel')  # for several processes
val_cfg = dict(type='mmkd_plugin.PeerValLoop')  # each peer by its name, their mean, their ensemble
test_cfg = dict(type='mmkd_plugin.PeerTestLoop')
# It writes epoch_30_a.pth and epoch_30_b.pth, which load into stock MMPretrain.
custom_hooks = [dict(type='mmkd_plugin.SaveStudent')]
