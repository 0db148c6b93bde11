# Deep mutual learning: the loss of each network is that of the labels and the divergence from the
# other networks' probabilities.
_base_ = 'cifar100_mutual.py'

model = dict(
    type='mmkd_plugin.MutualDistiller', methods=dict(dml=dict(type='SoftTarget', temperature=1.0))
)
optim_wrapper = dict(constructor='mmkd_plugin.PeerOptimWrappers')
model_wrapper_cfg = dict(type='mmkd_plugin.PeerDataParallel')  # for several processes
val_cfg = dict(type='mmkd_plugin.PeerValLoop')
test_cfg = dict(type='mmkd_plugin.PeerTestLoop')
custom_hooks = [dict(type='mmkd_plugin.SaveStudent')]
