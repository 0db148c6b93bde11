# ResNet-20 of He et al. for CIFAR-10.
_base_ = 'cifar_classifier.py'

model = dict(backbone=dict(type='mmkd_plugin.CifarResNet', depth=20), head=dict(in_channels=64))
