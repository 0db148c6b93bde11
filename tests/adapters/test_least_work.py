"""The work that a teacher spares, seen from below.

No code of label assignment, sampling, losses, box decoding or suppression runs at all.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from helpers import detection as small

from mmkd_plugin.adapters import Teacher

#: Files of that work in MMDet and mmcv: assigners, samplers, coders and priors; losses; boxes.
WORK = dict(
    tasks='mmdet/models/task_modules/',
    losses='mmdet/models/losses/',
    boxes='mmdet/structures/bbox/',
    nms='mmcv/ops/nms.py',
    multiclass_nms='mmdet/models/layers/bbox_nms.py',
)
#: Names of that work in heads and detectors.
WORDS = (
    'loss',
    'predict',
    'target',
    'proposal',
    'refine',
    'decode',
    'assign',
    'sample',
    'nms',
    'get_bboxes',
)

WITH_SCORES = [
    family
    for family in small.FAMILIES
    if family not in ('ssd', 'dino') and not family.endswith('detr')
]
BY_MAPS = ('detr', 'deformable_detr', 'dino')
ROIS = torch.tensor([[0.0, 1, 1, 30, 30], [1, 5, 5, 60, 40]])


def work_of(function: Callable[[], Any]) -> set[str]:
    """Return the kinds of that work that a call does, under whatever name it is imported."""
    found: set[str] = set()

    def see(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != 'call' or not ('/mmdet/' in code.co_filename or '/mmcv/' in code.co_filename):
            return
        found.update(name for name, path in WORK.items() if path in code.co_filename)
        if '/models/' in code.co_filename:
            found.update(word for word in WORDS if word in code.co_name)

    previous = sys.getprofile()
    sys.setprofile(see)
    try:
        function()
    finally:
        sys.setprofile(previous)
    return found


def requested(family: str, folder: Path, scores: bool) -> tuple[Teacher, Callable[[], Any]]:
    """A teacher, and its part of a training step."""
    config = small.detector(family)
    teacher = Teacher(config, small.checkpoint(folder, config))
    teacher.request(['neck[0]'], scores)
    stages = 3 if family == 'cascade_rcnn' else 1
    return teacher, lambda: teacher.observe(torch.randn(2, 3, 96, 96), [ROIS] * stages)


@pytest.mark.parametrize(
    ('family', 'scores'),
    [*((family, True) for family in WITH_SCORES), *((family, False) for family in BY_MAPS)],
)
def test_observe_does_none_of_the_work_of_training_and_prediction(
    family: str, scores: bool, tmp_path: Path
) -> None:
    _, observe = requested(family, tmp_path, scores)
    assert work_of(observe) == set()
    output = observe()
    assert (output.scores is not None) is scores
    assert list(output.features) == ['neck[0]']


@pytest.mark.parametrize('family', ['gfl', 'faster_rcnn'])
def test_training_and_prediction_do_that_work(family: str, tmp_path: Path) -> None:
    """The control: without it the test above could not fail."""
    model = requested(family, tmp_path, True)[0].model
    batch = small.batch_for(family)
    trained = work_of(lambda: small.losses_of(model, batch))
    assert {'tasks', 'losses', 'loss', 'target', 'assign', 'sample'} <= trained
    predicted = work_of(lambda: model.val_step(small.batch_for(family)))
    assert {'tasks', 'nms', 'predict', 'decode'} <= predicted
