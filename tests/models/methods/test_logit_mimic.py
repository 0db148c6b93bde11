import pytest
import torch
from helpers.classification import knowledge

from mmkd_plugin.models.methods import LogitMimic


def bound(standardize: bool, classes: int = 2) -> LogitMimic:
    method = LogitMimic(loss_weight=3.0, standardize=standardize)
    scores = knowledge(torch.zeros(1, classes))
    method.bind(scores, [scores])
    return method


def test_half_the_squared_distance_to_the_teachers_mean() -> None:
    # Mean of the teachers: (2, 4). Distances: 1 + 4 = 5 and 0. Half the mean over two images: 5/4, times 3.
    teachers = [
        knowledge(torch.tensor([[1.0, 3.0], [1.0, 3.0]])),
        knowledge(torch.tensor([[3.0, 5.0], [3.0, 5.0]])),
    ]
    student = knowledge(torch.tensor([[3.0, 6.0], [2.0, 4.0]]))
    assert bound(False)(student, teachers, None)['loss_mimic'].item() == pytest.approx(3 * 5 / 4)


def test_standardised_by_statistics_of_the_transfer_set() -> None:
    # In units of std (1, 2) the distances are 1, (2/2)^2 = 1: half of 2 is 1, times 3; the mean cancels.
    method = bound(True)
    method.set_statistics(torch.tensor([5.0, -5.0]), torch.tensor([1.0, 2.0]))
    student, teacher = knowledge(torch.tensor([[3.0, 6.0]])), knowledge(torch.tensor([[2.0, 4.0]]))
    assert method(student, [teacher], None)['loss_mimic'].item() == pytest.approx(3.0)
    assert method.state_dict().keys() == {'logit_mean', 'logit_std'}


def test_statistics_are_saved_and_a_constant_logit_is_no_division_by_zero() -> None:
    method = bound(True)
    method.set_statistics(torch.zeros(2), torch.tensor([0.0, 1.0]))
    other = bound(True)
    assert not other.measured
    other.load_state_dict(method.state_dict())
    assert other.measured
    same = knowledge(torch.ones(1, 2))
    assert other(same, [same], None)['loss_mimic'].item() == 0.0


def test_without_statistics_it_says_what_to_add() -> None:
    scores = knowledge(torch.zeros(1, 2))
    with pytest.raises(
        ValueError,
        match=r'^standardize: expected measured logits: add .*mmkd_plugin\.MeasureLogits',
    ):
        bound(True)(scores, [scores], None)
