from pathlib import Path

import pytest
import torch
from helpers import classification as tiny
from helpers.classification import built, output
from helpers.errors import raises_config_error

from mmkd_plugin.models.methods import Hint

STUDENT = output(low=torch.randn(2, 4, 8, 8), high=torch.randn(2, 6, 4, 4), flat=torch.randn(2, 6))
TEACHERS = [
    output(map=torch.randn(2, 5, 4, 4)),
    output(map=torch.randn(2, 7, 8, 8), flat=torch.randn(2, 3)),
]


def test_loss_is_the_mean_squared_error_behind_the_regressors() -> None:
    pairs = [dict(student='high', teacher='map'), dict(student='flat', teacher='flat', index=1)]
    method = built(Hint(pairs, loss_weight=0.5), STUDENT, TEACHERS)
    spatial, flat = method.regressors
    regressed = torch.einsum('oc,nchw->nohw', spatial.weight, STUDENT.feature('high'))
    regressed = regressed + spatial.bias[:, None, None]
    vectors = STUDENT.feature('flat') @ flat.weight.T + flat.bias
    expected = 0.5 * (
        (regressed - TEACHERS[0].feature('map')).square().mean()
        + (vectors - TEACHERS[1].feature('flat')).square().mean()
    )
    torch.testing.assert_close(method(STUDENT, TEACHERS, None), {'loss_hint': expected})


@pytest.mark.parametrize(('tap', 'index'), [('low', 0), ('high', 1)])
def test_larger_map_is_pooled_to_the_size_of_the_smaller(tap: str, index: int) -> None:
    pair = dict(student=tap, teacher='map', index=index)
    method = built(Hint([pair]), STUDENT, TEACHERS)
    pooled = [
        x.reshape(*x.shape[:2], 4, x.shape[2] // 4, 4, x.shape[3] // 4).mean(dim=(3, 5))
        for x in (STUDENT.feature(tap), TEACHERS[index].feature('map'))
    ]
    (regressor,) = method.regressors
    regressed = torch.einsum('oc,nchw->nohw', regressor.weight, pooled[0])
    regressed = regressed + regressor.bias[:, None, None]
    expected = (regressed - pooled[1]).square().mean()
    torch.testing.assert_close(method(STUDENT, TEACHERS, None)['loss_hint'], expected)


def test_run_with_a_vector_beside_a_map_is_refused_when_it_is_built(tmp_path: Path) -> None:
    maps = dict(student='backbone.layer3', teacher='backbone.layer3')
    methods = dict(hint=dict(type='Hint', pairs=[maps, dict(maps, student='neck', index=1)]))
    key, vector, feature = 'methods.hint.pairs[1].teacher', (2, 16), (2, 24, 16, 16)
    with raises_config_error(key, feature, str(vector), fix='Pair a map with a map'):
        tiny.distiller(tmp_path, methods=methods)


def test_run_with_a_vector_beside_a_vector_trains(tmp_path: Path) -> None:
    methods = dict(hint=dict(type='Hint', pairs=[dict(student='head', teacher='neck')]))
    assert tiny.losses_of(tiny.distiller(tmp_path, methods=methods))['hint.loss_hint'] > 0
