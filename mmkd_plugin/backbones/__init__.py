"""Networks of the papers that the hosts lack."""

from mmkd_plugin.backbones.cifar_resnet import CifarResNet

__all__ = ['CifarResNet']
