"""Untrained detectors to be timed, teachers with foreground scores, and noise with boxes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn

from mmkd_plugin.adapters import TappedModel, get_adapter
from mmkd_plugin.loading.build import network_config
from mmkd_plugin.outputs import ClassScores

CLASSES = 10
DIGIT_SCENES = Path(__file__).parents[2] / 'configs/digit_scenes'
#: The share of a dense teacher's locations that are not background.
FOREGROUND = 0.2


@dataclass(frozen=True)
class Case:
    """One kind of detector and what is timed.

    Args:
        name: Its name in the table.
        student: Config of the student.
        teachers: Configs of the teachers.
        batch: Number of images.
        side: Side of an image, in pixels.
        methods: By name: the config, and the number of teachers.
    """

    name: str
    student: ConfigDict
    teachers: tuple[ConfigDict, ...]
    batch: int
    side: int
    methods: dict[str, tuple[dict[str, Any], int]]


def digit_scenes(name: str) -> ConfigDict:
    """Return a GFL of the study `detection`."""
    return network_config(str(DIGIT_SCENES / f'{name}.py'), name)


def retinanet(depth: int) -> ConfigDict:
    """Return MMDet's RetinaNet for ten classes."""
    options = {'model.backbone.init_cfg': None, 'model.bbox_head.num_classes': CLASSES}
    return network_config(f'mmdet::retinanet/retinanet_r{depth}_fpn_1x_coco.py', 'student', options)


def faster_rcnn(depth: int, channels: int) -> ConfigDict:
    """Return MMDet's Faster R-CNN, narrower, for ten classes and a quarter of the regions."""
    base = 16 * channels // 64
    options: dict[str, Any] = {
        'model.backbone.init_cfg': None,
        'model.backbone.depth': depth,
        'model.backbone.base_channels': base,
        'model.backbone.stem_channels': base,
        'model.neck.in_channels': [base, 2 * base, 4 * base, 8 * base],
        'model.neck.out_channels': channels,
        'model.rpn_head.in_channels': channels,
        'model.rpn_head.feat_channels': channels,
        'model.roi_head.bbox_roi_extractor.out_channels': channels,
        'model.roi_head.bbox_head.in_channels': channels,
        'model.roi_head.bbox_head.fc_out_channels': 4 * channels,
        'model.roi_head.bbox_head.num_classes': CLASSES,
        'model.train_cfg.rcnn.sampler.num': 128,
    }
    return network_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'student', options)


def batch_of(images: int, size: int | tuple[int, int]) -> dict[str, Any]:
    """Return noise with four boxes an image, as the data loader collates it.

    Args:
        images: Number of images.
        size: (height, width), or the side of a square.
    """
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    height, width = (size, size) if isinstance(size, int) else size
    sides = torch.tensor([width, height])
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(images):
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0)
            )
        )
        corners = torch.rand(4, 2, generator=generator) * sides / 2
        sizes = (0.1 + 0.4 * torch.rand(4, 2, generator=generator)) * sides
        labels = torch.randint(0, CLASSES, (4,), generator=generator)
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corners, corners + sizes], dim=1), labels=labels
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    noise = torch.randint(
        0, 256, (images, 3, height, width), generator=generator, dtype=torch.uint8
    )
    return dict(inputs=list(noise), data_samples=samples)


def teachers_of(case: Case, data: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Return entries of untrained teachers whose share of foreground is :data:`FOREGROUND`.

    Methods on class scores compute at foreground locations alone.
    """
    entries = []
    for number, config in enumerate(case.teachers):
        model = MODELS.build(config).eval()
        _raise_scores(model, model.data_preprocessor(data, True)['inputs'])
        checkpoint = folder / f'teacher{number}.pth'
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        entries.append(dict(name=f't{number}', model=config, checkpoint=str(checkpoint)))
    return entries


@torch.no_grad()
def _raise_scores(model: Any, inputs: torch.Tensor) -> None:
    """Shift the class scores of a dense head; an untrained RoI head has enough foreground."""
    adapter = get_adapter(model)
    if adapter.scores_need_training:
        return
    network = TappedModel(model, 'teacher')
    network.request([], scores=True)
    scores = network.observe(inputs).scores
    assert scores is not None
    last = _last_of_classes(model.bbox_head, scores)
    last.bias += torch.tensor(0.05).logit() - scores.logits.amax(dim=-1).quantile(1 - FOREGROUND)


def _last_of_classes(head: Any, scores: ClassScores) -> Any:
    """Return the convolution of the class scores: in MMDet's heads its name ends in `_cls`."""
    found = [
        module
        for name, module in head.named_children()
        if name.endswith('_cls') and isinstance(module, nn.Conv2d)
    ]
    assert (
        len(found) == 1 and found[0].out_channels == scores.levels[0][2] * scores.logits.shape[-1]
    )
    return found[0]
