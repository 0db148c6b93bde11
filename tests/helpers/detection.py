"""Detectors of every family, and batches of small scenes for them.

Each is built from its stock MMDet config, shrunk to a few channels.
"""

import copy
import itertools
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.models.distillers import Distiller

with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # the frameworks warn about themselves
    import mmdet.models  # noqa: F401
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

CLASSES = 3
_FILES = itertools.count()

_RESNET = {
    'model.backbone.depth': 18,
    'model.backbone.base_channels': 4,
    'model.backbone.stem_channels': 4,
    'model.backbone.init_cfg': None,
}
_FPN = {'model.neck.in_channels': [4, 8, 16, 32], 'model.neck.out_channels': 8}
_HEAD = {
    'model.bbox_head.num_classes': CLASSES,
    'model.bbox_head.in_channels': 8,
    'model.bbox_head.feat_channels': 8,
    'model.bbox_head.stacked_convs': 1,
}
_DENSE = {**_RESNET, **_FPN, **_HEAD}
_RPN = {'model.rpn_head.in_channels': 8, 'model.rpn_head.feat_channels': 8}
_BOX = {'num_classes': CLASSES, 'in_channels': 8, 'fc_out_channels': 16}
_ROI = {
    **_RESNET,
    **_FPN,
    **_RPN,
    'model.roi_head.bbox_roi_extractor.out_channels': 8,
    'model.train_cfg.rpn_proposal.nms_pre': 50,
    'model.train_cfg.rpn_proposal.max_per_img': 20,
}
_GN = dict.fromkeys(  # two channels a group
    ('model.neck.out_channels', 'model.bbox_head.in_channels', 'model.bbox_head.feat_channels'), 64
)

_QUERIES = {
    **_RESNET,
    'model.neck.out_channels': 32,
    'model.encoder.num_layers': 1,
    'model.encoder.layer_cfg.self_attn_cfg.embed_dims': 32,
    'model.encoder.layer_cfg.ffn_cfg.embed_dims': 32,
    'model.encoder.layer_cfg.ffn_cfg.feedforward_channels': 32,
    'model.decoder.num_layers': 1,
    'model.decoder.layer_cfg.self_attn_cfg.embed_dims': 32,
    'model.decoder.layer_cfg.cross_attn_cfg.embed_dims': 32,
    'model.decoder.layer_cfg.ffn_cfg.embed_dims': 32,
    'model.decoder.layer_cfg.ffn_cfg.feedforward_channels': 32,
    'model.positional_encoding.num_feats': 16,
    'model.bbox_head.num_classes': CLASSES,
    'model.bbox_head.embed_dims': 32,
    'model.num_queries': 12,
    'model.test_cfg.max_per_img': 10,
}

#: The stock config of each family, and the changes that make it small.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    'retinanet': ('retinanet/retinanet_r18_fpn_1x_coco.py', _DENSE),
    'fcos': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', {**_DENSE, **_GN}),
    'atss': ('atss/atss_r50_fpn_1x_coco.py', {**_DENSE, **_GN}),
    'gfl': ('gfl/gfl_r50_fpn_1x_coco.py', {**_DENSE, **_GN}),
    'yolox': (
        'yolox/yolox_tiny_8xb8-300e_coco.py',
        {
            'model.backbone.widen_factor': 0.0625,
            'model.neck.in_channels': [16, 32, 64],
            'model.neck.out_channels': 16,
            'model.bbox_head.num_classes': CLASSES,
            'model.bbox_head.in_channels': 16,
            'model.bbox_head.feat_channels': 16,
        },
    ),
    'rtmdet': (
        'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        {
            'model.backbone.widen_factor': 0.0625,
            'model.backbone.init_cfg': None,
            'model.backbone.norm_cfg.type': 'BN',
            'model.neck.norm_cfg.type': 'BN',
            'model.bbox_head.norm_cfg.type': 'BN',
            'model.neck.in_channels': [16, 32, 64],
            'model.neck.out_channels': 16,
            'model.bbox_head.num_classes': CLASSES,
            'model.bbox_head.in_channels': 16,
            'model.bbox_head.feat_channels': 16,
        },
    ),
    'ssdlite': (
        'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
        {
            'model.backbone.widen_factor': 0.1,
            'model.neck.in_channels': [16, 1280],
            'model.neck.out_channels': [16, 1280, 16, 16, 16, 16],
            'model.bbox_head.in_channels': [16, 1280, 16, 16, 16, 16],
            'model.bbox_head.num_classes': CLASSES,
        },
    ),
    'ssd': (
        'ssd/ssd300_coco.py',
        {'model.backbone.init_cfg': None, 'model.bbox_head.num_classes': CLASSES},
    ),
    'faster_rcnn': (
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        {**_ROI, **{f'model.roi_head.bbox_head.{name}': value for name, value in _BOX.items()}},
    ),
    'mask_rcnn': (
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        {
            **_ROI,
            **{f'model.roi_head.bbox_head.{name}': value for name, value in _BOX.items()},
            'model.roi_head.mask_roi_extractor.out_channels': 8,
            'model.roi_head.mask_head.in_channels': 8,
            'model.roi_head.mask_head.conv_out_channels': 8,
            'model.roi_head.mask_head.num_convs': 1,
            'model.roi_head.mask_head.num_classes': CLASSES,
        },
    ),
    'cascade_rcnn': (
        'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
        {
            **_ROI,
            **{
                f'model.roi_head.bbox_head.{stage}.{name}': value
                for stage in range(3)
                for name, value in _BOX.items()
            },
        },
    ),
    'detr': ('detr/detr_r50_8xb2-150e_coco.py', {**_QUERIES, 'model.neck.in_channels': [32]}),
    'deformable_detr': (
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        {**_QUERIES, 'model.neck.in_channels': [8, 16, 32]},
    ),
    'conditional_detr': (  # its decoder always has 256 channels
        'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
        {
            **{name: 256 if value == 32 else value for name, value in _QUERIES.items()},
            'model.positional_encoding.num_feats': 128,
            'model.neck.in_channels': [32],
        },
    ),
    'dab_detr': (
        'dab_detr/dab-detr_r50_8xb2-50e_coco.py',
        {**_QUERIES, 'model.neck.in_channels': [32]},
    ),
    'dino': (  # its positional encoding always has 256 channels
        'dino/dino-4scale_r50_8xb2-12e_coco.py',
        {
            **{name: 256 if value == 32 else value for name, value in _QUERIES.items()},
            'model.positional_encoding.num_feats': 128,
            'model.neck.in_channels': [8, 16, 32],
        },
    ),
}

DENSE = ('retinanet', 'fcos', 'atss', 'gfl', 'yolox', 'rtmdet', 'ssdlite', 'ssd')


@cache
def _config(family: str) -> Any:
    path, options = FAMILIES[family]
    return network_config(f'mmdet::{path}', family, options)


def detector(family: str, **options: Any) -> Any:
    """Return the config of a small detector.

    Args:
        family: A key of :data:`FAMILIES`.
        options: Changes below ``model``, with ``__`` for dots.
    """
    config = copy.deepcopy(_config(family))
    return network_config(
        config,
        family,
        {f'model.{name.replace("__", ".")}': value for name, value in options.items()},
    )


def network(config: Any, seed: int = 0) -> nn.Module:
    """Build a network with :func:`varied` weights."""
    return varied(build_network(copy.deepcopy(config), 'network'), seed)


def varied(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw weights, statistics and biases that make networks and locations differ.

    Some locations are then not background.
    """
    generator = torch.Generator().manual_seed(seed)
    MMLogger.get_current_instance().setLevel('WARNING')  # it logs every layer
    model.init_weights()  # some parameters are created without values
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(
                module.weight, std=module.weight[0].numel() ** -0.5, generator=generator
            )
            if 'head' in name and module.bias is not None:
                nn.init.normal_(module.bias, mean=-1.0, std=0.5, generator=generator)
    return model


def checkpoint(folder: Path, config: Any, seed: int = 0) -> str:
    """Save a :func:`network` and return the path of its checkpoint."""
    path = folder / f'detector{seed}_{next(_FILES)}.pth'
    torch.save(dict(state_dict=network(config, seed).state_dict()), path)
    return str(path)


def teacher(folder: Path, config: Any, seed: int = 1, **extra: Any) -> dict[str, Any]:
    """Return the config of a teacher with a new checkpoint."""
    return dict(name=f't{seed}', model=config, checkpoint=checkpoint(folder, config, seed), **extra)


def distiller(
    folder: Path, student: Any, teachers: Sequence[Any] | None = None, **changes: Any
) -> Distiller:
    """Build a detector that learns from the class scores of one of its kind, unless changed."""
    config = dict(
        type='mmkd_plugin.Distiller',
        student=student,
        teachers=[teacher(folder, student)] if teachers is None else teachers,
        methods=dict(kd=dict(type='SoftTarget', temperature=2.0)),
    )
    model = ROOT_MODELS.build({**config, **changes})
    varied(model.student)
    return model


def sample(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    size: tuple[int, int],
    crowd: bool = False,
    masks: bool = False,
) -> DetDataSample:
    """Return the sample of an image, as a pipeline packs it.

    Args:
        boxes: Corners (left, top, right, bottom).
        labels: Class indices.
        size: (height, width).
        crowd: Whether all boxes are to be ignored.
        masks: Whether each box has a mask.
    """
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    found = InstanceData(
        bboxes=HorizontalBoxes(corners), labels=torch.tensor(labels, dtype=torch.long)
    )
    if masks:
        filled = np.zeros((len(corners), *size), dtype=np.uint8)
        for mask, (left, top, right, bottom) in zip(filled, corners.int().tolist(), strict=True):
            mask[top : bottom + 1, left : right + 1] = 1
        found.masks = BitmapMasks(filled, *size)
    nothing = found[torch.zeros(len(corners), dtype=torch.bool)]
    data = DetDataSample(
        metainfo=dict(img_id=0, img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    )
    data.gt_instances, data.ignored_instances = (nothing, found) if crowd else (found, nothing)
    return data


def batch_of(samples: Sequence[DetDataSample]) -> dict[str, Any]:
    """Return a raw batch of noise, as the data loader collates it."""
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, *one.img_shape), generator=generator, dtype=torch.uint8)
        for one in samples
    ]
    return dict(inputs=images, data_samples=list(samples))


def batch_for(family: str) -> dict[str, Any]:
    """Return two images with boxes, the second lower than the first; one for SSD."""
    side, masks = (300 if family == 'ssd' else 96), family == 'mask_rcnn'
    high = sample([[8, 8, 40, 40], [30, 20, 80, 60]], [0, 2], (side, side), masks=masks)
    if family == 'ssd':  # VGG needs 300 pixels: one image is enough
        return batch_of([high])
    return batch_of([high, sample([[10, 12, 50, 44]], [1], (side - 24, side), masks=masks)])


def losses_of(model: nn.Module, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the losses of one batch in training."""
    # The Runner sets it; the augmentation of YOLOX reads it.
    MessageHub.get_current_instance().update_info('iter', 0)
    data = model.data_preprocessor(copy.deepcopy(dict(raw)), True)
    return model(**data, mode='loss')


def total(model: Any, losses: Mapping[str, Any]) -> Tensor:
    """Return the sum of losses that the Runner minimises."""
    loss: Tensor = model.parse_losses(losses)[0]
    return loss
