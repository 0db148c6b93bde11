"""Batches with few or no objects: losses stay finite, and the run goes on."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from mmengine.optim import OptimWrapper

EVERYTHING = dict(
    kd=dict(type='SoftTarget', temperature=2.0),
    amtml=dict(
        type='AMTMLKD',
        objective='label',
        student_groups=['backbone[2]', 'backbone[3]'],
        teacher_taps='neck[0]',
        mapping=[1, 0],
    ),
    ie=dict(
        type='IEKD',
        knowledge='overhaul',
        reduction='size_invariant',
        pairs=[
            dict(
                student='backbone.layer4.1.relu#1:input',
                teacher='backbone.layer4.1.relu#1:input',
                norm='backbone.layer4.1.bn2',
            )
        ],
    ),
    maps=dict(
        type='IEKD',
        knowledge='attention',
        reduction='size_invariant',
        pairs=[dict(student=tap, teacher=tap) for tap in ('backbone[3]', 'neck[0]')],
    ),
)


def without_regions(model: Any) -> Any:
    """Patch the student to propose nothing, as if every box were too small.

    An image without objects then has no region at all.
    """
    original = model.student.rpn_head.loss_and_predict

    def nothing(*args: Any, **kwargs: Any) -> Any:
        losses, found = original(*args, **kwargs)
        return losses, [one[torch.zeros(len(one), dtype=torch.bool)] for one in found]

    return patch.object(model.student.rpn_head, 'loss_and_predict', nothing)


@pytest.mark.parametrize('family', ['gfl', 'faster_rcnn', 'cascade_rcnn'])
def test_distiller_on_batches_with_few_or_no_objects_has_finite_losses(
    family: str, tmp_path: Path
) -> None:
    config = small.detector(family)
    teachers = [small.teacher(tmp_path, config, seed) for seed in (1, 2)]
    model: Any = small.distiller(tmp_path, config, teachers, methods=EVERYTHING).train()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-5))
    nothing = small.sample([], [], (75, 91))
    crowd = small.sample([[4, 4, 60, 60]], [1], (97, 53), crowd=True)
    pixel = small.sample([[30, 30, 31, 31], [0, 0, 1, 1]], [2, 0], (64, 64))
    low = small.sample([[5, 5, 6, 6]], [0], (33, 127))
    batches = [
        [nothing, nothing],
        [nothing],
        [crowd, crowd],
        [pixel, nothing],
        [low],
        [crowd, pixel, nothing],
    ]
    before = tiny.weights_of(model)

    def step(samples: Any) -> dict[str, Any]:
        logged: dict[str, Any] = model.train_step(small.batch_of(samples), optimizer)
        assert all(torch.as_tensor(value).isfinite().all() for value in logged.values()), logged
        return logged

    for samples in batches:
        step(samples)
    if family != 'gfl':
        with without_regions(model):
            logged = step([nothing, nothing])
        assert logged['kd.loss_kd'] == logged['amtml.loss_kd'] == logged['amtml.loss_angle'] == 0.0
    logged = step(small.batch_for(family)['data_samples'])
    assert all(
        logged[f'{name}.{part}'] > 0 for name, part in (('kd', 'loss_kd'), ('amtml', 'loss_hint'))
    )
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    moved = {
        name.split('.')[0]
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert {'student', 'methods'} <= moved
