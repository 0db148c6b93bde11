"""One-stage detectors of every kind of MMDet's heads, shrunk from their stock configs.

The families whose tests look at more than the class scores are in :mod:`helpers.detection`.
"""

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any

from mmengine.logging import MessageHub

from helpers import detection as small
from mmkd_plugin.loading.build import network_config

_RESNET = small.FAMILIES['retinanet'][1]
_BACKBONE = {name: value for name, value in _RESNET.items() if 'bbox_head' not in name}
#: Group norm of 32 groups needs as many channels.
_GN = {
    'model.neck.out_channels': 32,
    'model.bbox_head.in_channels': 32,
    'model.bbox_head.feat_channels': 32,
}
_HOURGLASS = {
    'model.backbone.stage_channels': [8, 8, 8, 8, 8, 8],
    'model.backbone.stage_blocks': [1, 1, 1, 1, 1, 1],
    'model.backbone.feat_channel': 8,
    'model.bbox_head.num_classes': small.CLASSES,
    'model.bbox_head.in_channels': 8,
}
#: The teacher that LAD holds has the same parts as the student.
_LAD = {
    **_RESNET,
    **_GN,
    'model.teacher_ckpt': None,
    **{
        name.replace('model.', 'model.teacher_'): value
        for name, value in {**_RESNET, **_GN}.items()
    },
}
_MASK_HEAD = {
    **_BACKBONE,
    'model.neck.out_channels': 32,
    'model.mask_head.num_classes': small.CLASSES,
    'model.mask_head.in_channels': 32,
    'model.mask_head.feat_channels': 32,
    'model.mask_head.stacked_convs': 1,
    'model.mask_head.num_grids': [10, 8, 6, 4, 2],
}
_CONDINST = {
    **_RESNET,
    **_GN,
    'model.mask_head.mask_feature_head.in_channels': 32,
    'model.mask_head.mask_feature_head.feat_channels': 8,
    'model.mask_head.mask_feature_head.num_stacked_convs': 1,
}
_RPN = {
    **_BACKBONE,
    'model.rpn_head.in_channels': 8,
    'model.rpn_head.feat_channels': 8,
}

#: The stock config of each family, and the changes that make it small.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    'vfnet': ('vfnet/vfnet_r50_fpn_1x_coco.py', {**_RESNET, **_GN}),
    'tood': (
        'tood/tood_r50_fpn_1x_coco.py', {**_RESNET, **_GN, 'model.bbox_head.stacked_convs': 2},
    ),
    'tood_anchors': (
        'tood/tood_r50_fpn_anchor-based_1x_coco.py',
        {**_RESNET, **_GN, 'model.bbox_head.stacked_convs': 2},
    ),
    'ddod': (  # its deformable layer needs maps of three positions: images of 384 pixels
        'ddod/ddod_r50_fpn_1x_coco.py', {**_RESNET, **_GN, 'model.bbox_head.use_dcn': False},
    ),
    'fsaf': ('fsaf/fsaf_r50_fpn_1x_coco.py', _RESNET),
    'foveabox': ('foveabox/fovea_r50_fpn_4xb4-1x_coco.py', _RESNET),
    'foveabox_align': (
        'foveabox/fovea_r50_fpn_gn-head-align_4xb4-2x_coco.py', {**_RESNET, **_GN},
    ),
    'yolof': (
        'yolof/yolof_r50-c5_8xb8-1x_coco.py',
        {
            **{name: value for name, value in _BACKBONE.items() if 'neck' not in name},
            'model.neck.in_channels': 32,
            'model.neck.out_channels': 8,
            'model.neck.block_mid_channels': 4,
            'model.bbox_head.num_classes': small.CLASSES,
            'model.bbox_head.in_channels': 8,
        },
    ),
    'yolov3': (
        'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py',
        {
            'model.backbone.widen_factor': 0.1,
            'model.backbone.init_cfg': None,
            'model.neck.in_channels': [32, 16, 8],
            'model.neck.out_channels': [8, 8, 8],
            'model.bbox_head.in_channels': [8, 8, 8],
            'model.bbox_head.out_channels': [8, 8, 8],
            'model.bbox_head.num_classes': small.CLASSES,
        },
    ),
    'yolact': (
        'yolact/yolact_r50_1xb8-55e_coco.py',
        {
            **{name: v for name, v in _RESNET.items() if 'stacked_convs' not in name},
            'model.mask_head.in_channels': 8,
            'model.mask_head.num_classes': small.CLASSES,
        },
    ),
    'rtmdet_ins': (
        'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', small.FAMILIES['rtmdet'][1],
    ),
    'nas_fpn': (
        'nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py',
        {**_RESNET, 'model.neck.stack_times': 1},
    ),
    'paa': ('paa/paa_r50_fpn_1x_coco.py', {**_RESNET, **_GN}),
    'lad': ('lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py', _LAD),
    'autoassign': ('autoassign/autoassign_r50-caffe_fpn_1x_coco.py', {**_RESNET, **_GN}),
    'free_anchor': ('free_anchor/freeanchor_r50_fpn_1x_coco.py', _RESNET),
    'ga_retinanet': ('guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py', _RESNET),
    'pisa_retinanet': ('pisa/retinanet-r50_fpn_pisa_1x_coco.py', _RESNET),
    'sabl_retinanet': ('sabl/sabl-retinanet_r50_fpn_1x_coco.py', _RESNET),
    'reppoints': (
        'reppoints/reppoints-moment_r50_fpn_1x_coco.py',
        {**_RESNET, 'model.bbox_head.point_feat_channels': 8},
    ),
    'nas_fcos': (
        'nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py',
        {
            **{name: v for name, v in _RESNET.items() if 'stacked_convs' not in name},
            **_GN,
            'model.backbone.norm_cfg.eps': 1e-5,
        },
    ),
    'cornernet': ('cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py', _HOURGLASS),
    'centripetalnet': (
        'centripetalnet/centripetalnet_hourglass104_16xb6-crop511-210e-mstest_coco.py', _HOURGLASS,
    ),
    'centernet': (
        'centernet/centernet_r18_8xb16-crop512-140e_coco.py',
        {
            **{name: value for name, value in _BACKBONE.items() if 'neck' not in name},
            'model.neck.in_channels': 32,
            'model.neck.num_deconv_filters': (16, 8, 8),
            'model.bbox_head.in_channels': 8,
            'model.bbox_head.feat_channels': 8,
            'model.bbox_head.num_classes': small.CLASSES,
        },
    ),
    'centernet_update': (
        'centernet/centernet-update_r50-caffe_fpn_ms-1x_coco.py', {**_RESNET, **_GN},
    ),
    'solo': ('solo/solo_r50_fpn_1x_coco.py', _MASK_HEAD),
    'decoupled_solo': ('solo/decoupled-solo_r50_fpn_1x_coco.py', _MASK_HEAD),
    'decoupled_solo_light': ('solo/decoupled-solo-light_r50_fpn_3x_coco.py', _MASK_HEAD),
    'solov2': (
        'solov2/solov2_r50_fpn_1x_coco.py',
        {
            **_MASK_HEAD,
            'model.mask_head.mask_feature_head.feat_channels': 32,
            'model.mask_head.mask_feature_head.out_channels': 32,
        },
    ),
    'condinst': ('condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py', _CONDINST),
    'boxinst': ('boxinst/boxinst_r50_fpn_ms-90k_coco.py', _CONDINST),
    'rpn': ('rpn/rpn_r50_fpn_1x_coco.py', _RPN),
    'ga_rpn': ('guided_anchoring/ga-rpn_r50_fpn_1x_coco.py', _RPN),
}  # fmt: skip

#: Families whose losses need images of one size; their stock pipelines resize to it.
_SAME_SIZE = ('yolact', 'rtmdet_ins')
#: Families whose maps are halved five times.
_HIGH = ('cornernet', 'centripetalnet')


@cache
def _config(family: str) -> Any:
    path, options = FAMILIES[family]
    return network_config(f'mmdet::{path}', family, options)


def detector(family: str, options: Mapping[str, Any] | None = None) -> Any:
    """Return the config of a small detector of either table.

    Args:
        family: A key of :data:`FAMILIES`, or of that of :mod:`helpers.detection`.
        options: Changes, such as ``{'model.neck.out_channels': 16}``.
    """
    if family in small.FAMILIES:
        return network_config(small.detector(family), family, dict(options or {}))
    return network_config(copy.deepcopy(_config(family)), family, dict(options or {}))


def batch_for(family: str) -> dict[str, Any]:
    """Return two images with boxes and masks, the second lower where the family allows it."""
    if family in small.FAMILIES:
        return small.batch_for(family)
    # The Runner publishes it; TOOD reads it.
    MessageHub.get_current_instance().update_info('epoch', 0)
    side = 128 if family in _HIGH else 96
    height = side if family in _SAME_SIZE else side - 24
    high = small.sample([[8, 8, 40, 40], [30, 20, 80, 60]], [0, 2], (side, side), masks=True)
    low = small.sample([[10, 12, 50, 44]], [1], (height, side), masks=True)
    return small.batch_of([high, low])
