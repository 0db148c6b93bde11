"""The last layers of a head give what the whole head gives on its own features."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from torch import nn

from mmkd_plugin.adapters import Teacher, TeacherProbe
from mmkd_plugin.adapters.head_continuation import HeadContinuation
from mmkd_plugin.adapters.head_towers import TOWERS, final_activation, find_towers
from mmkd_plugin.loading.build import network_config
from mmkd_plugin.outputs import NetworkOutput

SHAPE = (3, 96, 96)
VFNET = ('vfnet/vfnet_r50_fpn_1x_coco.py', {**small._DENSE, **small._GN})


def teacher_of(folder: Path, config: Any, **options: Any) -> Teacher:
    entry = small.teacher(folder, config)
    return Teacher(entry['model'], entry['checkpoint'], **options)


def outputs_of(
    teacher: Teacher, remaining: int, before: bool
) -> tuple[NetworkOutput, dict[str, list[torch.Tensor]]]:
    """Return a teacher's outputs for noise, and its features at a cut by tower."""
    towers = find_towers(teacher)
    taps = {name: towers.taps(name, towers.convs - remaining, before) for name in TOWERS}
    teacher.request([tap for one in taps.values() for tap in one], True, boxes=True)
    noise = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    output = teacher.observe(noise)
    return output, {name: [output.feature(tap) for tap in taps[name]] for name in taps}


@pytest.mark.parametrize('before', [True, False])
@pytest.mark.parametrize('remaining', [0, 1])
@pytest.mark.parametrize('family', ['gfl', 'retinanet', 'fcos', 'atss'])
def test_own_features_give_own_predictions(
    family: str, remaining: int, before: bool, tmp_path: Path
) -> None:
    teacher = teacher_of(tmp_path, small.detector(family, bbox_head__stacked_convs=2))
    head = HeadContinuation(teacher, SHAPE, remaining, before)
    output, features = outputs_of(teacher, remaining, before)
    kept = copy.deepcopy(features)
    logits, boxes = head(features)
    torch.testing.assert_close(logits, output.scores.logits, rtol=1e-4, atol=1e-4)
    unit = 1 if family != 'fcos' else 128  # pixels of strides of up to 128
    torch.testing.assert_close(boxes, output.boxes.values, rtol=1e-4, atol=1e-4 * unit)
    for name, maps in features.items():  # they are not changed in place
        assert all(map(torch.equal, maps, kept[name]))
    features['cls_convs'] = [one + 1 for one in features['cls_convs']]  # a control
    assert not torch.allclose(head(features)[0], output.scores.logits, atol=0.01)


def test_head_whose_scores_read_both_towers_is_refused_without_boxes(tmp_path: Path) -> None:
    teacher = teacher_of(tmp_path, network_config(f'mmdet::{VFNET[0]}', 'vfnet', VFNET[1]))
    assert HeadContinuation(teacher, SHAPE, 0).channels == dict.fromkeys(TOWERS, 64)
    with raises_config_error('type', 'VFNetHead', 'continue', fix='above 0'):
        HeadContinuation(teacher, SHAPE, 0, reads=TOWERS[:1], boxes=False)


def test_head_that_changes_its_input_is_refused(tmp_path: Path) -> None:
    teacher = teacher_of(tmp_path, small.detector('gfl'))
    own = teacher.model.bbox_head
    forward = type(own).forward_single
    own.forward_single = lambda x, scale: [one + x.mean() for one in forward(own, x, scale)]
    with raises_config_error('type', 'GFLHead', 'something else'):
        HeadContinuation(teacher, SHAPE, 0)


def test_layers_are_those_of_the_teacher_and_follow_it(tmp_path: Path) -> None:
    teacher = teacher_of(tmp_path, small.detector('gfl'))
    head = HeadContinuation(teacher, SHAPE, 0)
    _, features = outputs_of(teacher, 0, False)
    before = head(features)[0]
    assert copy.deepcopy(head) is head
    teacher.model.double()
    assert head({name: [one.double() for one in maps] for name, maps in features.items()})[
        0
    ].dtype is (torch.float64)
    with torch.no_grad():
        teacher.model.bbox_head.gfl_cls.bias += 1
    torch.testing.assert_close(head(features)[0].float(), before + 1, rtol=1e-4, atol=1e-4)
    assert len(teacher.model.bbox_head.cls_convs) == 1  # the head keeps its own towers
    assert not teacher.model.bbox_head.training


def test_activation_counts_at_the_end_of_a_convolution_alone(tmp_path: Path) -> None:
    from mmcv.cnn import ConvModule

    conv = ConvModule(2, 2, 1)
    assert final_activation(conv) is conv.activate
    assert final_activation(ConvModule(2, 2, 1, act_cfg=None)) is None
    assert final_activation(ConvModule(2, 2, 1, order=('act', 'conv', 'norm'))) is None
    assert final_activation(nn.Conv2d(2, 2, 1)) is None


def test_probe_of_a_peer_has_no_head_to_continue() -> None:
    probe = TeacherProbe('peers.a', NetworkOutput(), nn.Identity())
    with raises_config_error('type', ANY, 'peers.a', fix='SoftTarget'):
        probe.head_continuation(1)
