from pathlib import Path

import torch
from helpers.analysis import config_of
from helpers.classification import TinyImages
from helpers.errors import raises_config_error
from mmengine.config import Config

from mmkd_plugin.analysis.images import sample_images


def numbers_of(cfg: Config, count: int, seed: int = 0) -> list[int]:
    """Indices of the drawn images in the data set."""
    known = [image.tolist() for image in TinyImages(24, seed=3).images]
    return [known.index(image.tolist()) for image in sample_images(cfg, 'val', count, seed).raw(99)]


def test_sample_images_draws_from_the_whole_data_set_each_image_once(cfg: Config) -> None:
    drawn = numbers_of(cfg, 10)
    assert len(set(drawn)) == 10
    assert max(drawn) > 12, 'not the first ones'
    assert drawn == numbers_of(cfg, 10)
    assert drawn != numbers_of(cfg, 10, seed=1)
    assert numbers_of(cfg, 99) == list(range(24))


def test_sample_images_gives_the_loaders_batches_with_labels_and_class_names(cfg: Config) -> None:
    cfg.val_dataloader.update(drop_last=True, persistent_workers=False)
    images = sample_images(cfg, 'val', 24)
    assert [len(batch['inputs']) for batch in images.batches] == [16, 8]
    assert images.count == 24
    assert [images.class_name(index) for index in (0, 3, 4)] == ['a', 'd', '4']
    assert images.raw(3)[2].dtype == torch.uint8
    labels = [int(sample.gt_label) for batch in images.batches for sample in batch['data_samples']]
    assert labels == [index % 4 for index in range(24)]


def test_sample_images_of_no_such_split_or_number_raises(tmp_path: Path) -> None:
    cfg = config_of(tmp_path)
    with raises_config_error('--split', 'test', fix='val'):
        sample_images(cfg, 'test', 3)
    with raises_config_error('--images', 0):
        sample_images(cfg, 'val', 0)
