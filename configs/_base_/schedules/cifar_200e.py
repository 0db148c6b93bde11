# The schedule of AMTML-KD: SGD, 200 epochs, the rate divided by 10 after 100 and 150.
_base_ = ['mmpretrain::_base_/schedules/cifar10_bs128.py', 'mmpretrain::_base_/default_runtime.py']

optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
# The last epoch counts, not the best on the test set.
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
