import builtins
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.errors import raises_config_error
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import METRICS as ROOT_METRICS

pytest.importorskip('mlxtend')
with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of MMDet, about itself
    pytest.importorskip('mmdet.datasets')
    import mmdet.evaluation  # noqa: F401
    from mmdet.datasets import CocoDataset, VOCDataset

from mmkd_plugin.datasets import build_digit_scenes

FEW = dict(scenes=dict(train=6, val=4, test=2), image_size=80)
CLASSES = tuple('0123456789')
PIPELINE = [
    dict(type='mmdet.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs'),
]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('data') / 'digit_scenes'


def ours(root: Path, split: str = 'train', **options: Any) -> CocoDataset:
    config = dict(
        type='mmkd_plugin.DigitScenes', split=split, data_root=str(root), **FEW, pipeline=PIPELINE
    )
    return ROOT_DATASETS.build({**config, **options})


def coco(root: Path, split: str) -> CocoDataset:
    return CocoDataset(
        data_root=str(root),
        ann_file=f'annotations/{split}.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        pipeline=PIPELINE,
    )


def voc(root: Path, split: str) -> VOCDataset:
    return VOCDataset(
        data_root=str(root),
        ann_file=f'VOC2007/ImageSets/Main/{split}.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        metainfo=dict(classes=CLASSES),
        pipeline=PIPELINE,
    )


def test_digit_scenes_are_a_stock_coco_data_set(root: Path) -> None:
    for split, count in FEW['scenes'].items():
        dataset = ours(root, split)
        assert type(dataset) is CocoDataset and len(dataset) == count
    assert dataset.metainfo['classes'] == CLASSES
    assert len(set(dataset.metainfo['palette'])) == 10


def test_digit_scenes_item_is_packed_by_the_stock_transforms(root: Path) -> None:
    item = ours(root, 'val')[1]
    assert item['inputs'].shape == (3, 80, 80)
    sample = item['data_samples']
    assert (sample.img_id, sample.img_shape, sample.ori_shape) == (2, (80, 80), (80, 80))
    boxes = sample.gt_instances.bboxes.tensor
    assert len(boxes) == len(sample.gt_instances.labels) >= 2
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 2


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_digit_scenes_by_path_are_equal_in_both_formats(root: Path, split: str) -> None:
    readers = [ours(root, split), coco(root, split), voc(root, split)]
    assert [len(reader) for reader in readers] == [FEW['scenes'][split]] * 3
    for index in range(len(readers[0])):
        first, *others = (reader.get_data_info(index)['instances'] for reader in readers)
        assert all(other == first for other in others) and len(first) >= 2
        image, *copies = (reader[index]['inputs'].numpy() for reader in readers)
        for copy in copies:
            np.testing.assert_array_equal(copy, image)


def predictions(dataset: Any) -> list[dict[str, Any]]:
    """Return the truth in the form of a detector's predictions."""
    found = []
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        truth = dict(bboxes=sample.gt_instances.bboxes.tensor, labels=sample.gt_instances.labels)
        none = dict(bboxes=truth['bboxes'][:0], labels=truth['labels'][:0])
        found.append(
            dict(
                img_id=sample.img_id,
                ori_shape=sample.ori_shape,
                gt_instances=truth,
                ignored_instances=none,
                pred_instances={**truth, 'scores': truth['bboxes'].new_ones(len(truth['bboxes']))},
            )
        )
    return found


@pytest.mark.parametrize('kind', ['coco', 'voc'])
def test_digit_scenes_truth_is_perfect_by_the_stock_metrics(root: Path, kind: str) -> None:
    dataset = ours(root, 'val') if kind == 'coco' else voc(root, 'val')
    config = (
        dict(type='mmdet.CocoMetric', ann_file=f'{root}/annotations/val.json', metric='bbox')
        if kind == 'coco'
        else dict(type='mmdet.VOCMetric', metric='mAP', eval_mode='11points')
    )
    metric = ROOT_METRICS.build(config)
    metric.dataset_meta = dataset.metainfo
    metric.process({}, predictions(dataset))
    scores = metric.evaluate(len(dataset))
    assert scores['coco/bbox_mAP' if kind == 'coco' else 'pascal_voc/mAP'] == pytest.approx(1.0)


def test_digit_scenes_indices_and_classes_take_a_part(root: Path) -> None:
    assert len(ours(root, indices=2)) == 2
    threes = ours(root, metainfo=dict(classes=('3',)))
    everything = ours(root)
    count = 0
    for index in range(len(everything)):
        expected = [
            one['bbox']
            for one in everything.get_data_info(index)['instances']
            if one['bbox_label'] == 3
        ]
        assert [one['bbox'] for one in threes.get_data_info(index)['instances']] == expected
        count += len(expected)
    assert count > 0


def test_digit_scenes_of_another_recipe_need_another_folder(root: Path) -> None:
    ours(root)
    with raises_config_error('DigitScenes.data_root', str(root), 'seed 5', 'seed 0'):
        ours(root, seed=5)


def test_digit_scenes_of_an_unknown_split_are_refused(root: Path) -> None:
    with raises_config_error('DigitScenes.split', 'trial', "'train', 'val', 'test'"):
        ours(root, 'trial')


def test_digit_scenes_without_mmdet_name_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_mmdet(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith('mmdet'):
            raise ModuleNotFoundError(f'No module named {name!r}')
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without_mmdet)
    with pytest.raises(
        ImportError, match=r"DigitScenes needs MMDet\. Run: `pip install 'mmdet>=3.3'`"
    ):
        build_digit_scenes(data_root=str(tmp_path / 'none'))
    assert not (tmp_path / 'none').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('absent', 'names'),
    [('mmpretrain', ['DigitScenes']), ('mmdet', ['DigitScenes', 'Digits', 'DistortedMNIST'])],
)
def test_datasets_with_one_framework_alone_register_what_it_supports(
    absent: str, names: list[str]
) -> None:
    # In another process: the modules of this one are loaded already.
    code = (
        f'import sys; sys.modules[{absent!r}] = None\n'
        'import mmkd_plugin.installed as installed\n'
        f'installed.has = lambda name: name != {absent!r}\n'
        'import mmkd_plugin.datasets as datasets\n'
        'from mmkd_plugin.registry import DATASETS\n'
        f'assert sorted(DATASETS.module_dict) == {names}\n'
        'assert {getattr(datasets, name) for name in datasets.__all__} == '
        'set(DATASETS.module_dict.values())\n'
    )
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)
