"""Real images for tests, demos and studies, in data sets of MMPretrain and MMDet."""

from mmkd_plugin.datasets.digit_scenes.dataset import build_digit_scenes
from mmkd_plugin.installed import has

__all__ = ['build_digit_scenes']

if has('mmpretrain'):  # MMDet alone has no base class for classification
    from mmkd_plugin.datasets.digits import Digits
    from mmkd_plugin.datasets.distorted_mnist import DistortedMNIST

    __all__ += ['Digits', 'DistortedMNIST']
