# Networks that teach each other by their predictions: each learns from the labels and from the others' probabilities.
_base_ = 'cifar100_dml.py'

model = dict(
    type='mmkd_plugin.MutualDistiller', methods=dict(dml=dict(type='SoftTarget', temperature=1.0))
)
optim_wrapper = dict(constructor='mmkd_plugin.PeerOptimWrappers')
model_wrapper_cfg = dict(type='mmkd_plugin.PeerDataParallel')  # where there are several processes
val_cfg = dict(type='mmkd_plugin.PeerValLoop')
test_cfg = dict(type='mmkd_plugin.PeerTestLoop')
custom_hooks = [dict(type='mmkd_plugin.SaveStudent')]
