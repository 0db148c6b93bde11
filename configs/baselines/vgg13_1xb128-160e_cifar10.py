_base_ = '../_base_/cifar10_160e.py'

model = dict(backbone=dict(type='mmkd_plugin.CifarVGG', depth=13), head=dict(in_channels=512))
