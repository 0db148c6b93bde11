import builtins
from typing import Any

import numpy as np
import pytest
from helpers.errors import raises_config_error
from mmengine.registry import DATASETS as ROOT_DATASETS

pytest.importorskip('mmpretrain.datasets')
from mmkd_plugin.datasets import Digits

PACK = [dict(type='PackInputs')]


def test_digits_have_their_sizes_and_classes() -> None:
    sizes = {}
    for split in ('train', 'val', 'test'):
        digits = Digits(split=split)
        sizes[split] = len(digits)
        assert set(digits.get_gt_labels()) == set(range(10))
    assert sizes == dict(train=896, val=454, test=447)  # 1,797 in all
    assert digits.metainfo['classes'] == tuple('0123456789')


def test_digits_of_different_splits_share_no_image() -> None:
    seen = [
        {record['img'].tobytes() for record in Digits(split=split).data_list}
        for split in ('train', 'val', 'test')
    ]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_digits_item_is_packed_by_the_stock_transform() -> None:
    digits = ROOT_DATASETS.build(dict(type='mmkd_plugin.Digits', split='val', pipeline=PACK))
    item = digits[3]
    assert item['inputs'].shape == (1, 8, 8) and item['inputs'].max() > 200
    sample = item['data_samples']
    assert sample.gt_label.tolist() == [digits.get_gt_labels()[3]]
    assert (sample.sample_idx, sample.img_shape, sample.ori_shape) == (3, (8, 8), (8, 8))


def test_digits_with_stock_augmentations_are_packed() -> None:
    pipeline = [
        dict(type='RandomCrop', crop_size=8, padding=1),
        dict(type='RandomFlip', prob=1.0),
        *PACK,
    ]
    assert Digits(pipeline=pipeline)[0]['inputs'].shape == (1, 8, 8)


def test_digits_after_a_transform_in_place_are_unchanged() -> None:
    digits = Digits()
    before = digits.data_list[0]['img'].copy()
    digits.get_data_info(0)['img'][:] = 0
    np.testing.assert_array_equal(digits.get_data_info(0)['img'], before)


def test_digits_with_a_negative_index_count_from_the_end() -> None:
    digits = Digits()
    assert digits.get_data_info(-1)['sample_idx'] == len(digits) - 1


def test_digits_indices_and_subset_take_a_part() -> None:
    assert len(Digits(indices=20)) == 20
    assert np.bincount(Digits(indices=20).get_gt_labels()).tolist() == [2] * 10
    part = Digits(pipeline=PACK).get_subset([5, 7])
    assert len(part) == 2 and part[1]['data_samples'].gt_label.item() == Digits().get_gt_labels()[7]


def test_digits_without_labels_have_none() -> None:
    item = Digits(labels=False, pipeline=PACK)[0]
    assert 'gt_label' not in item['data_samples']


def test_digits_when_lazy_are_described() -> None:
    digits = Digits(split='test', lazy_init=True)
    assert "Haven't been initialized" in repr(digits)
    assert len(digits) == 447
    assert 'Split: \ttest' in repr(digits)


def test_digits_of_an_unknown_split_are_refused() -> None:
    with raises_config_error('Digits.split', 'trial', "'train', 'val', 'test'"):
        Digits(split='trial')


def test_digits_without_scikit_learn_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_sklearn(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith('sklearn'):
            raise ModuleNotFoundError(f'No module named {name!r}')
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without_sklearn)
    with pytest.raises(
        ImportError, match=r'Digits needs scikit-learn\. Run: `pip install scikit-learn`'
    ):
        Digits()
