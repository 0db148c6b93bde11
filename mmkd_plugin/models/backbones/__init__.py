"""Networks of the papers that MMPretrain and MMDet lack."""

from mmkd_plugin.models.backbones.cifar_mobilenet import CifarMobileNet
from mmkd_plugin.models.backbones.cifar_resnet import CifarResNet
from mmkd_plugin.models.backbones.cifar_vgg import CifarVGG
from mmkd_plugin.models.backbones.cifar_wide_resnet import CifarWideResNet
from mmkd_plugin.models.backbones.shallow_mimic_net import ShallowMimicNet

__all__ = ['CifarMobileNet', 'CifarResNet', 'CifarVGG', 'CifarWideResNet', 'ShallowMimicNet']
