from typing import Any

import pytest
import torch
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from torch import nn

from mmkd_plugin.adapters import DetectorAdapter, TappedModel, get_adapter
from mmkd_plugin.adapters.inspect_taps import tap_points

with_parts = dict(
    faster_rcnn={'rpn_head.rpn_conv', 'roi_head.bbox_head.fc_cls'},
    detr={'encoder', 'decoder', 'bbox_head.fc_cls'},
)


@pytest.mark.parametrize('family', with_parts)
def test_what_is_listed_without_obstacle_is_recorded_alone(family: str) -> None:
    model = small.network(small.detector(family))
    modes = [module.training for module in model.modules()]
    points = tap_points(model, (3, 64, 64))
    assert [module.training for module in model.modules()] == modes
    assert with_parts[family] <= {point.tap for point in points}
    free = [point for point in points if not point.obstacle]
    samples = small.FAMILIES and get_adapter(model).blank_samples(torch.zeros(2, 3, 64, 64))
    for point in free[:: max(1, len(free) // 12)]:
        net = TappedModel(model.eval(), 'model')
        net.request([point.tap])
        with torch.no_grad():
            output = net.observe(torch.zeros(2, 3, 64, 64), data_samples=samples)
        assert output.features[point.tap] is not None


class OneMore(nn.Module):
    def forward(self, features: Any, prompts: Any) -> Any:
        raise AssertionError('must not run')


def test_parts_that_need_more_than_features_are_listed_with_the_reason() -> None:
    model = small.network(small.detector('faster_rcnn'))
    model.text_head = OneMore()
    [point] = [point for point in tap_points(model, (3, 64, 64)) if point.tap == 'text_head']
    assert point.obstacle == 'it needs prompts beside the features of the images'
    net = TappedModel(model, 'student')
    net.request(['text_head'])
    with raises_config_error('student', ANY, 'text_head of FasterRCNN', 'prompts', fix='rpn_head'):
        net.observe(torch.zeros(2, 3, 64, 64))


def test_detectors_inside_a_model_are_refused_by_name() -> None:
    """Semi-supervised detectors and trackers run their detectors on several branches."""
    outer = nn.Module()
    outer.student, outer.teacher = (small.network(small.detector('faster_rcnn')) for _ in range(2))
    reasons = 'Module runs its detectors (student, teacher)', 'several branches'
    with raises_config_error('model', ANY, *reasons, fix='Distil one detector'):
        tap_points(outer)
    assert not get_adapter(outer).scores_known
    TappedModel(outer, 'student').request([])  # plain training needs no taps


def test_blank_samples_are_those_of_images_without_objects() -> None:
    samples = DetectorAdapter().blank_samples(torch.zeros(2, 3, 48, 64))
    assert [sample.img_shape for sample in samples] == [(48, 64)] * 2
    assert samples[0].batch_input_shape == samples[0].pad_shape == samples[0].ori_shape == (48, 64)
    assert len(samples[0].gt_instances) == 0 and samples[1].scale_factor == (1.0, 1.0)
    model = small.network(small.detector('detr')).train()
    assert torch.isfinite(sum(v for v in model.loss(torch.zeros(2, 3, 48, 64), samples).values()))
