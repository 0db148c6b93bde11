import pytest
import torch

from mmkd_plugin.models.weightings import WeightRecord

WEIGHTS = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])


def test_weight_record_sums_by_class_until_reset() -> None:
    record = WeightRecord(2, 3)
    for _ in range(2):
        record(WEIGHTS, torch.tensor([0, 2, 2]))
    assert record.class_sums.tolist() == [[2.0, 0.0], [0.0, 0.0], [1.5, 2.5]]
    assert record.class_counts.tolist() == [2.0, 0.0, 4.0]
    assert record.totals[:2].tolist() == [3.5, 2.5]
    assert record.count.item() == 6
    record.reset()
    assert all(not buffer.any() for buffer in record.buffers())
    assert not record.state_dict(), 'the sums of an epoch are not saved'


def test_weight_record_returns_the_entropy_in_units_of_log_t() -> None:
    # 0, 1, and -(1/4 log2 1/4 + 3/4 log2 3/4) = 0.8113; one teacher alone has none.
    assert WeightRecord(2, 3)(WEIGHTS, None).item() == pytest.approx(
        (0 + 1 + 0.811278) / 3, rel=1e-5
    )
    assert WeightRecord(1, 3)(torch.ones(4, 1), None).item() == 0


def test_weight_record_counts_mixed_labels_by_share() -> None:
    record = WeightRecord(2, 2)
    record(torch.tensor([[0.2, 0.8]]), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(record.class_sums, torch.tensor([[0.05, 0.2], [0.15, 0.6]]))
    assert record.class_counts.tolist() == [0.25, 0.75]


def test_weight_record_keeps_no_gradient() -> None:
    record = WeightRecord(2, 3)
    weights = WEIGHTS.clone().requires_grad_()
    assert not record(weights, torch.tensor([0, 2, 2])).requires_grad
    assert not record.class_sums.requires_grad
