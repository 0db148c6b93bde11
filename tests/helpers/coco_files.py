"""A detection data set on disk, in the formats of COCO and VOC: noise with bright boxes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np

CLASSES = ('red', 'green', 'blue')
SIDE, BOX = 64, 34  # VOC's training data leave smaller boxes out


def write(folder: Path, count: int = 4, classes: Sequence[str] = CLASSES) -> Path:
    """Write ``annotations.json``, ``images/`` and ``VOC2007/``, and return the folder.

    The last image is empty; every other one has one box.
    """
    rng = np.random.default_rng(0)
    images, annotations = [], []
    voc = folder / 'VOC2007'
    for path in (
        folder / 'images',
        voc / 'JPEGImages',
        voc / 'Annotations',
        voc / 'ImageSets' / 'Main',
    ):
        path.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture = rng.integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
        images.append(dict(id=index + 1, file_name=f'{index:06}.jpg', width=SIDE, height=SIDE))
        objects = ''
        if index < count - 1:
            left, top = rng.integers(2, SIDE - BOX - 2, 2).tolist()
            label = index % len(classes)
            channel = 2 - label  # files are written in the order blue, green, red
            picture[top : top + BOX, left : left + BOX, channel] = 250
            box = [left, top, BOX, BOX]
            annotations.append(
                dict(
                    id=index + 1,
                    image_id=index + 1,
                    category_id=label + 1,
                    bbox=box,
                    area=BOX**2,
                    iscrowd=0,
                )
            )
            edges = zip(
                ('xmin', 'ymin', 'xmax', 'ymax'),
                (left + 1, top + 1, left + BOX + 1, top + BOX + 1),
                strict=True,
            )
            bounds = ''.join(f'<{name}>{value}</{name}>' for name, value in edges)
            objects = (
                f'<object><name>{classes[label]}</name><difficult>0</difficult>'
                f'<bndbox>{bounds}</bndbox></object>'
            )
        for path in (folder / 'images', voc / 'JPEGImages'):
            mmcv.imwrite(picture, str(path / f'{index:06}.jpg'))
        size = f'<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>'
        (voc / 'Annotations' / f'{index:06}.xml').write_text(
            f'<annotation>{size}{objects}</annotation>'
        )
    (voc / 'ImageSets' / 'Main' / 'all.txt').write_text(
        '\n'.join(f'{index:06}' for index in range(count))
    )
    categories = [dict(id=index + 1, name=name) for index, name in enumerate(classes)]
    document = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'annotations.json').write_text(json.dumps(document))
    return folder


def dataset(folder: Path, training: bool = True) -> dict[str, Any]:
    """Return the config of a stock ``CocoDataset`` of these files, with a stock pipeline."""
    pipeline: list[dict[str, Any]] = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(SIDE, SIDE), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs'),
    ]
    return dict(
        type='CocoDataset',
        data_root=str(folder),
        ann_file='annotations.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        pipeline=pipeline,
        test_mode=not training,
    )
