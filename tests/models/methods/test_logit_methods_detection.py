"""DIST, DKD, NKD, RKD and standardised soft targets on real detectors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import detection as small
from helpers.errors import raises_config_error

METHODS: dict[str, dict[str, Any]] = dict(
    dist=dict(type='DIST'),
    dkd=dict(type='DKD', beta=2.0),
    nkd=dict(type='NKD', temperature=2.0),
    hard=dict(type='HardTarget'),
    amtml=dict(
        type='AMTMLKD',
        angle_weight=0.0,
        hint_weight=0.0,
        weighting=dict(type='UniformTeacherWeighting'),
        soft_target=dict(type='DKD', temperature=2.0),
    ),
    standardised=dict(type='SoftTarget', standardize=True),
)


@pytest.mark.slow
@pytest.mark.parametrize('family', ['faster_rcnn', 'ssd'])
def test_method_trains_a_detector_with_a_softmax(family: str, tmp_path: Path) -> None:
    methods = {**METHODS, 'rkd': dict(type='RKD', tap='backbone[-1]')}
    methods = {name: {**one, **uniform(one)} for name, one in methods.items()}
    model = small.distiller(tmp_path, small.detector(family), methods=methods).train()
    losses = small.losses_of(model, small.batch_for(family))
    parameters = [one for one in model.student.parameters() if one.requires_grad]
    for name in METHODS:
        [loss] = [value for key, value in losses.items() if key.startswith(f'{name}.loss')]
        assert loss.isfinite() and loss > 0, name
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        assert any(one is not None and one.any() for one in found), name
        assert all(one is None or one.isfinite().all() for one in found), name
    assert losses['rkd.loss_angle'] == 0.0  # two images


def uniform(method: dict[str, Any]) -> dict[str, Any]:
    """Untrained teachers find hardly any object."""
    return {} if method['type'] == 'RKD' else dict(locations=dict(weighting='uniform'))


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in METHODS if name != 'dist'])
def test_detector_with_a_sigmoid_is_refused(name: str, tmp_path: Path) -> None:
    key = dict(standardised='standardize', amtml='soft_target.type').get(name, 'type')
    with raises_config_error(f'methods.m.{key}', fix=''):
        small.distiller(tmp_path, small.detector('gfl'), methods=dict(m=METHODS[name]))
