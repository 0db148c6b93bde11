"""Detectors whose class scores no adapter knows: they have taps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS as MMDET_MODELS
from torch import Tensor, nn

from mmkd_plugin.adapters import DetectorAdapter, RoIDetectorAdapter, get_adapter
from mmkd_plugin.loading.build import network_config

HINT = dict(type='Hint', pairs=[dict(student='neck[0]', teacher='neck[0]')])
ADAPTERS = dict(sparse_rcnn=RoIDetectorAdapter)


def config(kind: str) -> Any:
    """A stock config, shrunk."""
    dense = small.FAMILIES['retinanet'][1]
    maps = {name: value for name, value in dense.items() if 'bbox_head' not in name}
    options = {
        'model.rpn_head.num_proposals': 10,
        'model.rpn_head.proposal_feature_channel': 8,
        'model.roi_head.num_stages': 1,
        'model.roi_head.stage_loss_weights': [1],
        'model.roi_head.proposal_feature_channel': 8,
        'model.roi_head.bbox_roi_extractor.out_channels': 8,
    }
    sparse = network_config(
        'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py', kind, {**maps, **options}
    )
    head = sparse.roi_head.bbox_head[0]
    head.update(num_classes=small.CLASSES, in_channels=8, feedforward_channels=16, num_heads=2)
    head.dynamic_conv_cfg.update(in_channels=8, feat_channels=4, out_channels=8)
    sparse.roi_head.bbox_head, sparse.train_cfg.rcnn = [head], sparse.train_cfg.rcnn[:1]
    return sparse


def require_step(model: Any) -> None:
    """Train one step: student and connectors move, and no gradient reaches the teacher."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = small.losses_of(model, small.batch_for('mask_rcnn'))
    assert losses['hint.loss_hint'] > 0 and any(name.startswith('task.') for name in losses)
    small.total(model, losses).backward()
    torch.optim.SGD(model.parameters(), lr=1e-4).step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    own = dict(model.student.named_parameters())
    assert any(name in own for name in moved)
    assert any(name.startswith('methods.') for name in moved)
    assert not any(p.grad is not None for p in model.teachers[0].model.parameters())


@pytest.mark.parametrize('kind', ADAPTERS)
def test_stock_detector_learns_by_its_taps_and_not_by_its_scores(kind: str, tmp_path: Path) -> None:
    detector = config(kind)
    assert type(get_adapter(small.network(detector))) is ADAPTERS[kind]
    require_step(small.distiller(tmp_path, detector, methods=dict(hint=HINT)))
    with raises_config_error('student', ANY, 'class scores of', fix='Use methods on taps alone'):
        small.distiller(tmp_path, detector)


@MMDET_MODELS.register_module(force=True)
class OfAnotherProject(BaseDetector):
    """A detector that shares MMDet's base class and nothing else."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.backbone = nn.Conv2d(3, 4, 3, 2)
        self.neck = nn.Conv2d(4, 4, 3, 2)

    def extract_feat(self, batch_inputs: Tensor) -> Tensor:
        return self.neck(self.backbone(batch_inputs))

    def loss(self, batch_inputs: Tensor, batch_data_samples: Any) -> dict[str, Tensor]:
        return {'loss_own': self.extract_feat(batch_inputs).square().mean()}

    def predict(self, *args: Any) -> Any: ...

    def _forward(self, *args: Any) -> Any:
        raise AssertionError('more than is needed')


def test_detector_of_another_project_learns_by_its_taps(tmp_path: Path) -> None:
    detector = dict(
        type='mmdet.OfAnotherProject', data_preprocessor=dict(type='mmdet.DetDataPreprocessor')
    )
    model = small.distiller(tmp_path, detector, methods=dict(hint=HINT))
    assert type(model.tapped.adapter) is DetectorAdapter
    require_step(model)
