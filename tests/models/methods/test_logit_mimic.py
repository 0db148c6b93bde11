import pytest
import torch
from helpers.classification import built, output
from helpers.errors import raises_config_error

from mmkd_plugin.models.losses import logit_mimic_loss
from mmkd_plugin.models.methods import LogitMimic, Requests
from mmkd_plugin.outputs import ClassScores, NetworkOutput


def build(standardize: bool, classes: int = 2) -> LogitMimic:
    scores = output(torch.zeros(1, classes))
    return built(LogitMimic(loss_weight=3.0, standardize=standardize), scores, [scores])


def test_loss_is_half_the_squared_distance_to_the_mean_of_the_teachers() -> None:
    # Mean of the teachers: (2, 4). Distances: 1 + 4 = 5 and 0. Half the mean over two images is
    # 5/4, times 3.
    teachers = [
        output(torch.tensor([[1.0, 3.0], [1.0, 3.0]])),
        output(torch.tensor([[3.0, 5.0], [3.0, 5.0]])),
    ]
    student = output(torch.tensor([[3.0, 6.0], [2.0, 4.0]]))
    losses = build(False)(student, teachers, None)
    assert losses.keys() == {'loss_mimic'}
    assert losses['loss_mimic'].item() == pytest.approx(3 * 5 / 4)


def test_standardised_loss_is_in_units_of_the_statistics() -> None:
    # In units of std (1, 2) the distances are 1 and (2/2)^2 = 1: half of 2 is 1, times 3; the mean
    # cancels.
    method = build(True)
    method.set_statistics(torch.tensor([5.0, -5.0]), torch.tensor([1.0, 2.0]))
    student, teacher = output(torch.tensor([[3.0, 6.0]])), output(torch.tensor([[2.0, 4.0]]))
    assert method(student, [teacher], None)['loss_mimic'].item() == pytest.approx(3.0)
    assert method.state_dict().keys() == {'logit_mean', 'logit_std'}


def test_statistics_are_saved_and_a_constant_logit_is_no_division_by_zero() -> None:
    method = build(True)
    method.set_statistics(torch.zeros(2), torch.tensor([0.0, 1.0]))
    other = build(True)
    assert not other.measured
    other.load_state_dict(method.state_dict())
    assert other.measured
    same = output(torch.ones(1, 2))
    assert other(same, [same], None)['loss_mimic'].item() == 0.0


def test_standardised_loss_without_statistics_names_the_hook() -> None:
    scores = output(torch.zeros(1, 2))
    fix = "Add custom_hooks=[dict(type='mmkd_plugin.MeasureLogits')]"
    with raises_config_error('standardize', True, 'measured logits', fix=fix):
        build(True)(scores, [scores], None)
    assert build(False).measured, 'statistics are not needed'


def detector(seed: int) -> NetworkOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 6, 3, generator=generator)
    return NetworkOutput(ClassScores(logits, 'sigmoid', levels=((2, 3, 1),)))


def test_detector_has_the_weighted_mean_over_its_locations() -> None:
    student, teacher = detector(0), detector(1)
    method = built(LogitMimic(locations=dict(weighting='uniform')), student, [teacher])
    rows = student.scores.logits.flatten(0, 1), teacher.scores.logits.flatten(0, 1)
    loss = method(student, [teacher], None)['loss_mimic']
    torch.testing.assert_close(loss, logit_mimic_loss(*rows))


def test_standardised_loss_of_a_detector_is_refused() -> None:
    with raises_config_error('standardize', True, 'must be False for detectors'):
        built(LogitMimic(standardize=True), detector(0), [detector(1)])


def test_requests_scores_of_all_networks_and_no_labels() -> None:
    assert LogitMimic().requests(2) == Requests(teachers=((), ()), scores=True)


def test_gradient_reaches_the_student_alone_and_weight_zero_is_inactive() -> None:
    student, teacher = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    LogitMimic()(output(student), [output(teacher)], None)['loss_mimic'].backward()
    assert student.grad.abs().min() > 0
    assert teacher.grad is None
    assert LogitMimic().active and not LogitMimic(loss_weight=0.0).active
    with raises_config_error('loss_weight', -1, 'must be a number >= 0'):
        LogitMimic(loss_weight=-1)
