"""A loss that is 0 for all outputs is refused before training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

AT = dict(type='AttentionTransfer')


def pairs(tap: str) -> list[dict[str, str]]:
    return [dict(student=tap, teacher=tap)]


@ROOT_MODELS.register_module(name='PoolTo', force=True)
class PoolTo(nn.Module):
    """A neck that pools to a size, and flattens."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(size)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.pool(maps[-1]).flatten(1),)


def one_class() -> dict[str, Any]:
    return tiny.classifier(classes=1)


def test_soft_targets_of_one_class_under_a_softmax_are_refused(tmp_path: Path) -> None:
    teacher = dict(model=one_class(), checkpoint=tiny.checkpoint(tmp_path, one_class()))
    with raises_config_error('methods.kd.loss_kd', ANY, '1 classes, softmax', fix='another'):
        tiny.distiller(tmp_path, student=one_class(), teachers=[teacher])


@pytest.mark.parametrize('size', [1, 2])
def test_attention_of_one_position_is_refused(tmp_path: Path, size: int) -> None:
    student = tiny.classifier()
    student['neck'] = dict(type='PoolTo', size=size)
    student['head']['in_channels'] *= size * size
    teacher = dict(model=student, checkpoint=tiny.checkpoint(tmp_path, student))
    methods = dict(at=dict(AT, pairs=pairs('neck.pool')))
    config = dict(student=student, teachers=[teacher], methods=methods)
    model = tiny.distiller(tmp_path, **config)
    if size == 1:
        with raises_config_error('methods.at.loss_attention', ANY, '(16, 1, 1)', fix='larger map'):
            tiny.losses_of(model)
    else:
        assert tiny.losses_of(model)['at.loss_attention'] >= 0


@pytest.mark.parametrize('side', [4, 8])
def test_size_of_the_map_in_training_decides(tmp_path: Path, side: int) -> None:
    methods = dict(at=dict(AT, pairs=pairs('backbone.layer3')))
    probe = (3, 12 - side, 12 - side)  # the other size
    model = tiny.distiller(tmp_path, methods=methods, probe_shape=probe)
    raw = tiny.batch_of()
    raw['inputs'] = [image[:, :side, :side] for image in raw['inputs']]
    if side == 4:
        with raises_config_error('methods.at.loss_attention', ANY, '(16, 1, 1)'):
            tiny.losses_of(model, raw)
    else:
        assert tiny.losses_of(model, raw)['at.loss_attention'] > 0


def test_trial_changes_neither_the_method_nor_random_numbers(tmp_path: Path) -> None:
    methods = dict(amtml=tiny.amtml(), hint=dict(type='Hint', pairs=pairs('backbone.layer2')))
    state = torch.get_rng_state()
    model = tiny.distiller(tmp_path, methods=methods)
    first = tiny.weights_of(model.methods)
    torch.set_rng_state(state)
    again = tiny.weights_of(tiny.distiller(tmp_path, methods=methods).methods)
    assert tiny.differing(first, again) == []
    assert not any(p.grad is not None for p in model.parameters())


def test_small_weight_is_no_reason_to_refuse(tmp_path: Path) -> None:
    tiny.distiller(tmp_path, methods=dict(kd=dict(type='SoftTarget', loss_weight=1e-9)))


@pytest.mark.parametrize('family', ['retinanet', 'faster_rcnn'])
def test_teacher_that_outputs_no_class_anywhere_is_refused(tmp_path: Path, family: str) -> None:
    config = small.detector(family)
    model = small.distiller(tmp_path, config, [small.teacher(tmp_path, config)])
    for module in model.teachers[0].model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.weight.zero_()
            module.bias.zero_()
    head = model.teachers[0].model
    last = head.bbox_head.retina_cls if family == 'retinanet' else head.roi_head.bbox_head.fc_cls
    last.bias.fill_(-20.0)
    if family == 'faster_rcnn':
        last.bias[-1] = 20.0  # the background
    [name] = model.methods
    with raises_config_error(f'methods.{name}.locations.background', ANY, fix='uniform'):
        small.losses_of(model, small.batch_for(family))


def test_images_without_objects_do_not_decide(tmp_path: Path) -> None:
    config = small.detector('retinanet')
    model = small.distiller(tmp_path, config, [small.teacher(tmp_path, config)])
    model.teachers[0].model.bbox_head.retina_cls.bias.fill_(-50.0)
    model.teachers[0].model.bbox_head.retina_cls.weight.zero_()
    small.losses_of(model, small.batch_of([small.sample([], [], (64, 64))]))
