# The teachers' weights are learned by the paper's objective, which takes no labels.
# Train first: baselines/resnet32_1xb128-200e_cifar100.py, and ResNet-56 and -110 alike.
_base_ = [
    '../_base_/pairs/resnet32-56-110_resnet20_cifar100.py',
    '../_base_/no_decay_on_weighting.py',
]

model = dict(methods=dict(amtml=_base_.methods.amtml))
optim_wrapper = _base_.no_decay_on_weighting
custom_hooks = [
    _base_.custom_hooks[0],
    dict(type='mmkd_plugin.LogTeacherWeights'),
    _base_.custom_hooks[1],
]
