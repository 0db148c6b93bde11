from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.classification import built, output
from helpers.errors import ANY, raises_config_error
from torch import nn

from mmkd_plugin.models.losses import factor_distance, reconstruction_loss, relative_error
from mmkd_plugin.models.methods import FactorTransfer

LOW, HIGH = dict(student='low', teacher='low'), dict(student='high', teacher='high', index=1)
STUDENT = output(low=torch.randn(3, 4, 8, 8), high=torch.randn(3, 6, 4, 4))
TEACHERS = [output(low=torch.randn(3, 5, 4, 4)), output(high=torch.randn(3, 7, 8, 8))]


def build(*pairs: Any, frozen: bool = False, **options: Any) -> FactorTransfer:
    return built(FactorTransfer(list(pairs), **options), STUDENT, TEACHERS, frozen)


def test_loss_is_the_distance_to_the_factor_of_the_paraphraser() -> None:
    method = build(LOW, loss_weight=2.0, paraphraser=dict(factor_channels=2))
    (paraphraser,) = method.auxiliary.paraphrasers
    paraphraser.eval()
    factor = paraphraser.encode(TEACHERS[0].feature('low'))
    translated = method.encoders[0](STUDENT.feature('low'))
    assert factor.shape[1] == translated.shape[1] == 2
    expected = 2.0 * factor_distance(translated, factor)
    torch.testing.assert_close(method(STUDENT, TEACHERS, None), {'loss_factor': expected})


def test_encoder_has_no_normalisation_unless_it_is_stated() -> None:
    """As in the authors' code."""
    for encoder, expected in ((None, False), (dict(norm='bn'), True)):
        method = build(LOW, encoder=encoder)
        found = any(isinstance(module, nn.BatchNorm2d) for module in method.modules())
        assert found is expected


def test_auxiliary_paraphrasers_are_no_children_and_learn_from_the_teachers_alone() -> None:
    method = build(LOW, HIGH)
    auxiliary = method.auxiliary
    assert not any('paraphras' in name for name, _ in method.named_parameters())
    target = TEACHERS[0].feature('low').clone().requires_grad_()
    teachers = [output(low=target), TEACHERS[1]]
    losses = auxiliary(teachers)
    assert set(losses) == {'loss_rec', 'relative_error'}
    losses['loss_rec'].backward()
    assert target.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in auxiliary.parameters())
    before = [p.grad.clone() for p in auxiliary.parameters()]
    method(STUDENT, teachers, None)['loss_factor'].backward()
    after = [p.grad for p in auxiliary.parameters()]
    assert all(map(torch.equal, after, before)), 'the method only reads them'


def test_auxiliary_loss_is_the_summed_reconstruction_with_the_mean_error() -> None:
    auxiliary = build(LOW, HIGH).auxiliary.eval()
    targets = TEACHERS[0].feature('low'), TEACHERS[1].feature('high')
    made = [one(target) for one, target in zip(auxiliary.paraphrasers, targets, strict=True)]
    parts = [reconstruction_loss(*both) for both in zip(made, targets, strict=True)]
    errors = [relative_error(*both) for both in zip(made, targets, strict=True)]
    expected = {'loss_rec': parts[0] + parts[1], 'relative_error': (errors[0] + errors[1]) / 2}
    torch.testing.assert_close(auxiliary(TEACHERS), expected)


CHECKPOINT = dict(LOW, checkpoint='no_such_file.pth')


@pytest.mark.parametrize(
    ('make', 'key', 'found', 'mentions'),
    [
        (lambda: FactorTransfer([CHECKPOINT, HIGH]), 'pairs[1].checkpoint', ANY, '1 of 2 pairs'),
        (
            lambda: FactorTransfer([CHECKPOINT], paraphraser=dict(norm=None)),
            'paraphraser',
            dict(norm=None),
            'pairs have a checkpoint',
        ),
        (
            lambda: FactorTransfer([LOW], paraphraser=dict(type='Hint')),
            'paraphraser.type',
            'Hint',
            "must be 'Paraphraser'",
        ),
        (lambda: FactorTransfer([LOW], encoder='bn'), 'encoder', 'bn', 'must be a dict'),
        (
            lambda: build(LOW, paraphraser=dict(factor_rate=-1)),
            'paraphraser.factor_rate',
            -1,
            'must be a number > 0',
        ),
        (
            lambda: build(LOW, paraphraser=dict(factor=1)),
            'paraphraser.factor',
            1,
            'is not an argument of Paraphraser',
        ),
        (lambda: build(LOW, encoder=dict(norm='ln')), 'encoder.norm', 'ln', 'must be'),
        (lambda: build(LOW, encoder=dict(kernel=1)), 'encoder.kernel', 1, 'FactorEncoder'),
        (
            lambda: build(CHECKPOINT, frozen=True),
            'pairs[0].checkpoint',
            'no_such_file.pth',
            'file',
        ),
        (lambda: build(CHECKPOINT), 'pairs[0].checkpoint', 'no_such_file.pth', 'still learns'),
        (lambda: build(LOW, frozen=True), 'pairs[0].checkpoint', ANY, 'is missing'),
    ],
)
def test_paraphraser_or_encoder_that_does_not_fit_is_refused(
    make: Callable[[], Any], key: str, found: Any, mentions: str
) -> None:
    with raises_config_error(key, found, mentions):
        make()
