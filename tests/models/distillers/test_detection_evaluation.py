"""A distiller is evaluated and drawn by MMDet as its student alone would be."""

import copy
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import classification as tiny
from helpers import coco_files
from helpers import detection as small
from mmdet.engine.hooks import DetVisualizationHook
from mmengine.registry import init_default_scope

PICTURES = 4


def evaluation(folder: Path, kind: str) -> dict[str, Any]:
    """Return the settings of a test run with a stock data set and metric."""
    dataset = coco_files.dataset(folder, training=False)
    metric = dict(
        type='CocoMetric',
        ann_file=str(folder / 'annotations.json'),
        metric='bbox',
        outfile_prefix=str(folder / 'found'),
    )
    if kind == 'voc':
        dataset = {key: value for key, value in dataset.items() if key != 'ann_file'}
        dataset['pipeline'] = copy.deepcopy(dataset['pipeline'])
        dataset['pipeline'][-1]['meta_keys'] = (
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
        )
        dataset.update(
            type='VOCDataset',
            ann_file='ImageSets/Main/all.txt',
            data_root=str(folder / 'VOC2007'),
            data_prefix=dict(sub_data_root=''),
        )
        metric = dict(type='VOCMetric', metric='mAP', iou_thrs=[0.05])
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=dataset,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    return dict(test_dataloader=loader, test_evaluator=metric, test_cfg=dict())


def measured(
    folder: Path, model: dict[str, Any], weights: dict[str, Any], kind: str, **changes: Any
) -> dict[str, Any]:
    """Return the metrics of a test run, with these weights in the (student) network."""
    init_default_scope('mmdet')
    settings = {**evaluation(folder, kind), **changes}
    run = tiny.runner(model, folder / 'run', default_scope='mmdet', **settings)
    getattr(run.model, 'student', run.model).load_state_dict(weights)
    found: dict[str, Any] = run.test()
    if kind == 'coco':
        found['boxes'] = json.loads((folder / 'found.bbox.json').read_text())
    return found


@pytest.mark.filterwarnings(  # the visualiser warns at the edge of an image
    'ignore:Warning. The (bbox|polygon|text) is out of bounds:UserWarning'
)
@pytest.mark.parametrize(('kind', 'family'), [('coco', 'gfl'), ('voc', 'faster_rcnn')])
def test_distiller_in_a_test_run_has_the_metrics_of_its_student(
    kind: str, family: str, tmp_path: Path
) -> None:
    coco_files.write(tmp_path, count=PICTURES)
    score = 'test_cfg__score_thr' if family == 'gfl' else 'test_cfg__rcnn__score_thr'
    detector = small.detector(family, **{score: 0.001})
    student = small.network(detector, seed=5).state_dict()
    model = dict(
        type='mmkd_plugin.Distiller',
        student=detector,
        teachers=[small.teacher(tmp_path, detector)],
        methods=dict(kd=dict(type='SoftTarget')),
    )
    drawn: list[Any] = []
    hooks = dict(
        visualization=dict(
            type='DetVisualizationHook', draw=True, interval=1, test_out_dir='pictures'
        ),
        logger=dict(type='LoggerHook', interval=1),
    )
    real = DetVisualizationHook.after_test_iter

    def noted(self: Any, runner: Any, batch_idx: int, data_batch: Any, outputs: Any) -> None:
        drawn.extend(output.pred_instances.scores for output in outputs)
        real(self, runner, batch_idx, data_batch, outputs)

    with patch.object(DetVisualizationHook, 'after_test_iter', noted):
        distilled = measured(
            tmp_path,
            model,
            student,
            kind,
            default_hooks=hooks,
            visualizer=dict(type='DetLocalVisualizer'),
        )
    alone = measured(tmp_path, detector, student, kind)
    assert distilled == alone
    assert alone.get('boxes') or 0 < alone['pascal_voc/mAP'] < 1, 'something is detected'
    assert len(list((tmp_path / 'run').rglob('pictures/*.jpg'))) == PICTURES == len(drawn)
    assert any(len(scores) for scores in drawn)


def test_distiller_in_tensor_mode_returns_the_outputs_of_its_student(tmp_path: Path) -> None:
    model = small.distiller(tmp_path, small.detector('gfl')).eval()
    with torch.no_grad():
        batch = model.data_preprocessor(small.batch_for('gfl'), False)
        both = zip(
            model(**batch, mode='tensor'), model.student(**batch, mode='tensor'), strict=True
        )
        for one, other in both:
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
