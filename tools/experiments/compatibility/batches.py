"""Small raw batches in the forms of the hosts' data pipelines."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

IMAGES = 2


def raw_batches(host: str, model: Any, classes: int) -> Iterator[dict[str, Any]]:
    """Yield raw batches that a model may accept, the most usual form first.

    Args:
        host: ``'mmpretrain'`` or ``'mmdet'``.
        model: The built network.
        classes: Number of classes in its config.
    """
    if host == 'mmpretrain':
        yield from _classification(model, classes)
    elif 'ReID' in type(model).__name__:
        yield _persons(classes)
    else:
        for side in (128, 320):
            yield _detection(model, side)


def _classification(model: Any, classes: int) -> Iterator[dict[str, Any]]:
    from mmpretrain.structures import DataSample, MultiTaskDataSample

    first = next((m for m in model.modules() if isinstance(m, torch.nn.Conv2d)), None)
    channels = 1 if first is not None and first.in_channels == 1 else 3
    head = getattr(model, 'head', None)
    tasks = getattr(head, 'task_heads', None)
    for side in dict.fromkeys((_own_side(model), 224, 32, 384)):
        samples: list[Any] = []
        for index in range(IMAGES):
            sample: Any = DataSample(metainfo=dict(img_shape=(side, side)))
            score = torch.zeros(classes)
            score[index % classes] = 1
            sample.set_gt_label(index % classes)
            if 'MultiLabel' in type(head).__name__ or 'CSRA' in type(head).__name__:
                sample.set_gt_score(score)
            if tasks is not None:
                several = MultiTaskDataSample()
                for name in tasks:
                    several.set_field(sample.clone(), name)
                sample = several
            samples.append(sample)
        images = [_image(index, side, channels) for index in range(IMAGES)]
        if (
            hasattr(model, 'target_generator')
            or 'SelfSup' in type(model.data_preprocessor).__name__
        ):
            view = torch.stack(images)
            masked = [sample.clone() for sample in samples]
            rows = side // getattr(head, 'patch_size', 16)
            for sample in masked:  # 75 of 196 patches, as BEiT masks them
                patches = torch.arange(rows**2).reshape(rows, rows)
                sample.set_mask((patches * 196 < 75 * patches.numel()).long())
            yield dict(inputs=view, data_samples=masked)
            yield dict(inputs=[view, view.flip(3)], data_samples=masked)
            yield dict(inputs=[view, view[:, :, ::2, ::2]], data_samples=masked)
        yield dict(inputs=images, data_samples=samples)


def _detection(model: Any, side: int) -> dict[str, Any]:
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8]]) * side
    samples, images = [], []
    for index in range(IMAGES):
        filled = np.zeros((2, side, side), dtype=np.uint8)
        semantic = torch.full((1, side, side), 1, dtype=torch.uint8)
        for number, (left, top, right, bottom) in enumerate(boxes.int().tolist()):
            filled[number, top:bottom, left:right] = 1
            semantic[:, top:bottom, left:right] = 0
        labels = torch.zeros(2, dtype=torch.long)
        meta: dict[str, Any] = dict(
            img_id=index,
            scale_factor=(1.0, 1.0),
            flip=False,
            flip_direction=None,
            text='person . dog .',
            custom_entities=True,
            img_path='image.jpg',
        )
        for name in ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'):
            meta[name] = (side, side)
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            bboxes=HorizontalBoxes(boxes.clone()),
            labels=labels,
            masks=BitmapMasks(filled, side, side),
        )
        sample.ignored_instances = InstanceData(
            bboxes=HorizontalBoxes(torch.zeros(0, 4)),
            labels=torch.zeros(0, dtype=torch.long),
            masks=BitmapMasks(np.zeros((0, side, side), dtype=np.uint8), side, side),
        )
        sample.proposals = InstanceData(bboxes=boxes.repeat(8, 1) + torch.arange(16.0)[:, None] % 5)
        sample.gt_sem_seg = PixelData(sem_seg=semantic)
        samples.append(sample)
        images.append(_image(index, side, 3))
    return dict(inputs=images, data_samples=samples)


def _persons(classes: int) -> dict[str, Any]:
    from mmdet.structures import ReIDDataSample

    samples = []
    for index in range(IMAGES):
        sample = ReIDDataSample(metainfo=dict(img_shape=(256, 128)))
        samples.append(sample.set_gt_label(index % classes))
    images = torch.stack([_image(index, 256, 3)[..., :128] for index in range(IMAGES)])
    return dict(inputs=list(images), data_samples=samples)


def _image(index: int, side: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(index)
    return torch.randint(0, 256, (channels, side, side), generator=generator, dtype=torch.uint8)


def _own_side(model: Any) -> int:
    """Return the side of the images that a network states, 224 if it states none."""
    for module in model.modules():
        for name in ('img_size', 'init_input_size', 'input_size'):
            size = getattr(module, name, None)
            size = size[0] if isinstance(size, (tuple, list)) and size else size
            if type(size) is int and 28 <= size <= 512:
                return size
    return 224
