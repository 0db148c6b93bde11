# SSD300 on ResNet-18 in place of VGG. Stages 3 to 5 and three more levels have the sizes 38, 19,
# 10, 5, 3 and 1 of SSD300's anchors. Data, augmentation and schedule are MMDet's: trained on VOC
# 2007 and 2012, tested on VOC 2007.
# Reconstructed: the paper of IE-KD names SSD and the backbones, and gives no other detail.
_base_ = 'mmdet::pascal_voc/ssd300_voc0712.py'

custom_imports = dict(imports=['mmkd_plugin.adapters.ssd_prediction'], allow_failed_imports=False)
model = dict(
    data_preprocessor=dict(std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
    ),
    neck=dict(
        in_channels=(128, 256, 512),
        out_channels=(128, 256, 512, 256, 256, 256),
        level_strides=(2, 1, 1),
        level_paddings=(1, 0, 0),
    ),
    bbox_head=dict(in_channels=(128, 256, 512, 256, 256, 256)),
)
