import torch
from helpers.classification import built, output

from mmkd_plugin.models.losses import attention_transfer_loss
from mmkd_plugin.models.methods import AttentionTransfer


def test_loss_is_the_sum_over_pairs_and_needs_no_connector() -> None:
    student = output(low=torch.randn(3, 4, 8, 8), high=torch.randn(3, 6, 4, 4))
    teachers = [output(low=torch.randn(3, 5, 4, 4)), output(high=torch.randn(3, 7, 8, 8))]
    pairs = [dict(student='low', teacher='low'), dict(student='high', teacher='high', index=1)]
    method = built(AttentionTransfer(pairs, loss_weight=3.0), student, teachers)
    expected = 3.0 * (
        attention_transfer_loss(student.feature('low'), teachers[0].feature('low'))
        + attention_transfer_loss(student.feature('high'), teachers[1].feature('high'))
    )
    torch.testing.assert_close(method(student, teachers, None), {'loss_attention': expected})
    assert not list(method.parameters())
