"""Settings, heads and labels that DIST, DKD and NKD refuse."""

import math
from typing import Any

import pytest
import torch
from helpers.classification import built
from helpers.errors import raises_config_error
from helpers.multi_teacher import student_output, teacher_outputs

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods import AMTMLKD, DIST, DKD, NKD, SoftTarget
from mmkd_plugin.outputs import ClassScores, NetworkOutput

LATENT, UNIFORM = dict(type='LatentTeacherWeighting'), dict(type='UniformTeacherWeighting')
every_method = pytest.mark.parametrize('kind', [DIST, DKD, NKD])


@pytest.mark.parametrize('kind', [DKD, NKD])
@pytest.mark.parametrize(
    'scores',
    [
        ClassScores(torch.zeros(1, 9, 4), 'sigmoid', False, ((3, 3, 1),)),
        ClassScores.of_images(torch.zeros(1, 4), 'sigmoid'),
        ClassScores.of_images(torch.zeros(1, 1)),
    ],
)
def test_head_without_a_distribution_is_refused(kind: Any, scores: ClassScores) -> None:
    one = NetworkOutput(scores, dict(high=torch.zeros(1, 3)))
    with raises_config_error('type', kind.__name__, str(scores), fix="'SoftTarget'"):
        built(kind(), one, [one])
    part = dict(type=kind.__name__)
    method = AMTMLKD(hint_weight=0.0, soft_target=part, objective='label', embedding_tap='high')
    with raises_config_error('soft_target.type', kind.__name__):
        built(method, one, [one])
    for method in (
        SoftTarget(standardize=True),
        AMTMLKD(hint_weight=0.0, standardize=True, embedding_tap='high'),
        kind(standardize=True, weighting=UNIFORM, embedding_tap='high'),
    ):
        key = 'type' if isinstance(method, kind) else 'standardize'
        with raises_config_error(key, fix=''):
            built(method, one, [one])


@pytest.mark.parametrize('kind', [DKD, NKD])
def test_labels_are_needed(kind: Any) -> None:
    student, teachers = student_output(), teacher_outputs()
    assert kind().requests(3).needs_labels
    part = AMTMLKD(
        hint_weight=0.0, soft_target=dict(type=kind.__name__), objective='label'
    ).requests(3)
    assert part.needs_labels
    with pytest.raises(ConfigError, match='needs labels'):
        kind()(student, teachers, None)
    shares = torch.full((6, 5), 0.2)
    with pytest.raises(ConfigError, match=r'needs one class of each image.*\(found \(6, 5\)\)'):
        kind()(student, teachers, shares)


def test_dist_needs_no_labels() -> None:
    assert not DIST().requests(1).needs_labels
    student, teachers = student_output(), teacher_outputs()
    assert DIST()(student, teachers, torch.full((6, 5), 0.2))['loss_dist'] > 0


def test_nkd_cannot_train_a_weighting() -> None:
    with raises_config_error('objective', 'paper', 'loss of NKD'):
        NKD(weighting=LATENT, objective='paper')
    with raises_config_error('objective', 'paper'):
        AMTMLKD(hint_weight=0.0, soft_target=dict(type='NKD'), objective='paper')
    NKD(weighting=LATENT), NKD(weighting=UNIFORM, objective='paper')


@pytest.mark.parametrize(
    ('options', 'key', 'found'),
    [
        (dict(temperature=0), 'temperature', 0),
        (dict(loss_weight=-1.0), 'loss_weight', -1.0),
        (dict(ensemble='harmonic'), 'ensemble', 'harmonic'),
        (dict(objective='labels'), 'objective', 'labels'),
        (dict(weighting=dict(type='NoRule')), 'weighting.type', 'NoRule'),
        (dict(locations=dict(weighting='all')), 'locations.weighting', 'all'),
        (dict(ensemble='geometric', weighting=UNIFORM), 'ensemble', 'geometric'),
    ],
)
@every_method
def test_setting_out_of_range_is_refused(
    kind: Any, options: dict[str, Any], key: str, found: Any
) -> None:
    with raises_config_error(key, found):
        kind(**options)


@pytest.mark.parametrize(
    ('kind', 'key'),
    [(DIST, 'inter_weight'), (DIST, 'intra_weight'), (DKD, 'alpha'), (DKD, 'beta'), (NKD, 'gamma')],
)
@pytest.mark.parametrize('value', [-1.0, math.nan, 'one'])
def test_weight_of_a_part_out_of_range_is_refused(kind: Any, key: str, value: Any) -> None:
    with raises_config_error(key, value):
        kind(**{key: value})


@pytest.mark.parametrize(
    ('part', 'key'),
    [
        (dict(type='DKD', loss_weight=2.0), 'soft_target.loss_weight'),
        (dict(type='DIST', weighting=UNIFORM), 'soft_target.weighting'),
        (dict(type='DKD', gama=1.0), 'soft_target.gama'),
        (dict(type='DKD', beta=-1.0), 'soft_target.beta'),
        (dict(type='HintLoss'), 'soft_target.type'),
        (dict(type='DKDD'), 'soft_target.type'),
        (dict(), 'soft_target'),
    ],
)
def test_part_of_amtml_kd_that_cannot_be_used_is_refused(part: dict[str, Any], key: str) -> None:
    with raises_config_error(key):
        AMTMLKD(hint_weight=0.0, soft_target=part)
