"""Real images for tests, demo and studies, as data sets of MMPretrain and MMDet; nothing is downloaded."""

from mmkd_plugin.datasets.digit_scenes.dataset import DigitScenes
from mmkd_plugin.installed import has

__all__ = ['DigitScenes']

if has('mmpretrain'):  # with MMDet alone there is no classification to feed
    from mmkd_plugin.datasets.digits import Digits
    from mmkd_plugin.datasets.distorted_mnist import DistortedMNIST

    __all__ += ['Digits', 'DistortedMNIST']
