from typing import Any

import pytest
import torch
from helpers.classification import knowledge

from mmkd_plugin.models.methods import Hint
from mmkd_plugin.outputs import Knowledge

STUDENT = knowledge(
    low=torch.randn(2, 4, 8, 8), high=torch.randn(2, 6, 4, 4), flat=torch.randn(2, 6)
)
TEACHERS = [
    knowledge(map=torch.randn(2, 5, 4, 4)),
    knowledge(map=torch.randn(2, 7, 8, 8), flat=torch.randn(2, 3)),
]


def bound(pairs: Any, **options: Any) -> Hint:
    method = Hint(pairs, **options)
    for index in range(len(TEACHERS)):
        method.taps_of_teacher(index, len(TEACHERS))
    method.bind(STUDENT, TEACHERS)
    return method


def test_mean_squared_error_behind_the_regressors() -> None:
    method = bound(
        [dict(student='high', teacher='map'), dict(student='flat', teacher='flat', index=1)],
        loss_weight=0.5,
    )
    spatial, flat = method.regressors
    regressed = (
        torch.einsum('oc,nchw->nohw', spatial.weight, STUDENT.features['high'])
        + spatial.bias[:, None, None]
    )
    vectors = STUDENT.features['flat'] @ flat.weight.T + flat.bias
    expected = 0.5 * (
        (regressed - TEACHERS[0].features['map']).square().mean()
        + (vectors - TEACHERS[1].features['flat']).square().mean()
    )
    torch.testing.assert_close(method(STUDENT, TEACHERS, None)['loss_hint'], expected)


@pytest.mark.parametrize(('tap', 'index'), [('low', 0), ('high', 1)])
def test_the_larger_map_is_pooled_to_the_smaller(tap: str, index: int) -> None:
    method = bound([dict(student=tap, teacher='map', index=index)])
    source, target = STUDENT.features[tap], TEACHERS[index].features['map']
    pooled = [
        x.reshape(*x.shape[:2], 4, x.shape[2] // 4, 4, x.shape[3] // 4).mean(dim=(3, 5))
        for x in (source, target)
    ]
    (regressor,) = method.regressors
    regressed = (
        torch.einsum('oc,nchw->nohw', regressor.weight, pooled[0]) + regressor.bias[:, None, None]
    )
    torch.testing.assert_close(
        method(STUDENT, TEACHERS, None)['loss_hint'], (regressed - pooled[1]).square().mean()
    )


def test_gradient_reaches_student_and_regressor() -> None:
    method = bound([dict(student='low', teacher='map')])
    student = Knowledge(None, {'low': STUDENT.features['low'].clone().requires_grad_()})
    method(student, TEACHERS, None)['loss_hint'].backward()
    assert student.features['low'].grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())


def test_only_the_named_teacher_is_asked() -> None:
    method = Hint(
        [dict(student='a', teacher='x', index=1), dict(student='b', teacher='y', index=1)]
    )
    assert method.student_taps == ('a', 'b')
    assert [method.taps_of_teacher(index, 2) for index in range(2)] == [(), ('x', 'y')]
    assert not method.needs_scores


@pytest.mark.parametrize(
    ('pairs', 'message'),
    [
        ([], r'^pairs: expected a list'),
        ('backbone', r'^pairs: expected a list'),
        ([dict(student='low')], r'^pairs\[0\]: expected dict\(student=…, teacher=…\)'),
        (
            [dict(student='low', teacher='map', channels=3)],
            r'^pairs\[0\]: expected dict\(student=…, teacher=…\)',
        ),
        (
            [dict(student='low', teacher='map', index=2)],
            r'^pairs\[0\]\.index: expected one of 2 teachers, got 2',
        ),
        (
            [dict(student='low', teacher='map', index='t0')],
            r"^pairs\[0\]\.index: expected one of 2 teachers, got 't0'",
        ),
        (
            [dict(student='low', teacher='map', student_channels=9)],
            r'^pairs\[0\]\.student_channels: expected 9 channels as the config states, the tap gives \(2, 4, 8, 8\)',
        ),
        (
            [dict(student='low', teacher='map', teacher_channels=9)],
            r'^pairs\[0\]\.teacher_channels: expected 9 channels as the config states, the tap gives \(2, 5, 4, 4\)',
        ),
        (
            [dict(student='none', teacher='map')],
            r"^features: expected 'none' to be recorded, got \['flat', 'high', 'low'\]",
        ),
    ],
)
def test_pairs_that_do_not_fit(pairs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound(pairs)
