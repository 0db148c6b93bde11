"""Inputs of a detector's teachers, bit by bit, under every preprocessing of the student."""

import copy
import gc
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import detection as small
from mmdet.models import DetDataPreprocessor
from mmengine.logging import MessageHub
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.models.distillers.teacher_inputs import TeacherInputs, same_preprocessing

OTHER = dict(
    type='DetDataPreprocessor',
    mean=[10.0, 20.0, 30.0],
    std=[2.0, 3.0, 4.0],
    rgb_to_bgr=True,
    pad_size_divisor=128,
)


def alone(config: dict[str, Any], raw: Any, training: bool = False, **changes: Any) -> Any:
    """Return the raw batch under this preprocessing alone."""
    plain = {
        key: value for key, value in {**config, **changes}.items() if key not in ('type', '_scope_')
    }
    return DetDataPreprocessor(**plain)(copy.deepcopy(raw), training)


def inputs_of_teachers(model: Distiller, raw: Any) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the inputs of each teacher's network, and the student's batch, of one step."""
    inputs: list[Tensor] = []
    handles = [
        teacher.model.backbone.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        for teacher in model.teachers
    ]
    batch = model.data_preprocessor(copy.deepcopy(raw), True)
    model(**batch, mode='loss')
    for handle in handles:
        handle.remove()
    return inputs, batch


@pytest.mark.parametrize('family', ['retinanet', 'mask_rcnn'])
def test_teacher_with_its_own_preprocessing_receives_it_and_leaves_the_students_batch(
    family: str, tmp_path: Path
) -> None:
    config = small.detector(family)
    teachers = [
        small.teacher(tmp_path, config, 1, data_preprocessor=OTHER, fast=False),
        small.teacher(tmp_path, config, 2, fast=False),  # it receives the very batch
        small.teacher(tmp_path, config, 3, data_preprocessor=OTHER, fast=False),
    ]
    model = small.distiller(tmp_path, config, teachers)
    raw = small.batch_for(family)
    inputs, batch = inputs_of_teachers(model, raw)
    expected = alone(OTHER, raw, pad_size_divisor=32)['inputs']
    assert torch.equal(inputs[0], expected) and inputs[0].shape == (2, 3, 96, 96)
    assert inputs[2] is inputs[0], 'equal preprocessing runs once'
    assert inputs[1] is batch['inputs']
    own = alone(config.data_preprocessor, raw, training=True)
    assert torch.equal(batch['inputs'], own['inputs']) and batch['inputs'].shape == (2, 3, 96, 96)
    for got, wanted in zip(batch['data_samples'], own['data_samples'], strict=True):
        assert got.metainfo == wanted.metainfo
        assert torch.equal(got.gt_instances.bboxes, wanted.gt_instances.bboxes)


def test_soft_target_with_a_teacher_that_pads_more_compares_the_shared_locations(
    tmp_path: Path,
) -> None:
    """The student pads to 32; a teacher of its weights that pads to 128 outputs almost the same."""
    config = small.detector('retinanet')
    padded = {**config.data_preprocessor, 'pad_size_divisor': 128}
    model = small.distiller(
        tmp_path, config, [small.teacher(tmp_path, config, 0, data_preprocessor=padded)]
    )
    other = small.distiller(
        tmp_path, config, [small.teacher(tmp_path, config, 5, data_preprocessor=padded)]
    )
    raw = small.batch_for('retinanet')
    for one in (model, other):
        one.student.eval()
    same, different = (small.losses_of(one, raw)['kd.loss_kd'].item() for one in (model, other))
    assert same < 0.05 * different, 'padding changes outputs near its edge only'


def test_teacher_inputs_of_a_student_that_resizes_have_the_size_that_it_drew(
    tmp_path: Path,
) -> None:
    """YOLOX draws a size every tenth iteration; teachers keep their own mean and std."""
    student = small.detector('yolox')
    normalised = dict(
        type='DetDataPreprocessor', mean=[100.0, 110.0, 120.0], std=[50.0] * 3, pad_size_divisor=32
    )
    model = small.distiller(
        tmp_path,
        student,
        [
            small.teacher(tmp_path, student, data_preprocessor=normalised),
            small.teacher(tmp_path, student, 2),
        ],
    )
    assert isinstance(model.data_preprocessor, TeacherInputs)
    reference = {
        name: DetDataPreprocessor(**{k: v for k, v in one.items() if k not in ('type', '_scope_')})
        for name, one in dict(student=student.data_preprocessor, teacher=normalised).items()
    }
    reference['teacher'].batch_augments = copy.deepcopy(reference['student'].batch_augments)
    raw = small.batch_for('yolox')
    sizes = []
    for iteration in range(8, 12):
        MessageHub.get_current_instance().update_info('iter', iteration)
        batch = under_seed(iteration, model.data_preprocessor, raw)
        expected = {name: under_seed(iteration, one, raw) for name, one in reference.items()}
        assert torch.equal(batch['inputs'], expected['student']['inputs'])
        assert torch.equal(batch['teacher_inputs'][0], expected['teacher']['inputs'])
        for got, wanted in zip(
            batch['data_samples'], expected['student']['data_samples'], strict=True
        ):
            assert got.metainfo == wanted.metainfo
            assert torch.equal(got.gt_instances.bboxes, wanted.gt_instances.bboxes), (
                'scaled once, not once a preprocessing'
            )
        sizes.append(tuple(batch['inputs'].shape[2:]))
    assert sizes[0] == sizes[1] == (96, 96) and sizes[2] != (96, 96), 'a size was drawn'


def under_seed(seed: int, preprocessor: Any, raw: Any) -> Any:
    """Return the training batch that a preprocessor makes under a seed of its random draws."""
    random.seed(seed)
    return preprocessor(copy.deepcopy(raw), True)


def test_teacher_with_batch_augments_in_its_config_receives_images_without_them(
    tmp_path: Path,
) -> None:
    student = small.detector('yolox', data_preprocessor__batch_augments=None)
    teacher = small.teacher(tmp_path, small.detector('yolox', data_preprocessor__pad_value=114))
    model = small.distiller(tmp_path, student, [teacher])
    raw = small.batch_for('yolox')
    MessageHub.get_current_instance().update_info('iter', 9)
    for _ in range(3):
        inputs, _ = inputs_of_teachers(model, raw)
        assert torch.equal(
            inputs[0], alone(teacher['model'].data_preprocessor, raw, batch_augments=None)['inputs']
        )


def test_images_of_another_padding_are_resized_as_the_students(tmp_path: Path) -> None:
    student = small.detector('yolox')
    padded = {**student.data_preprocessor, 'pad_size_divisor': 64, 'mean': [1.0] * 3}
    padded['std'] = [1.0] * 3
    model = small.distiller(
        tmp_path, student, [small.teacher(tmp_path, student, data_preprocessor=padded)]
    )
    raw = small.batch_for('yolox')
    MessageHub.get_current_instance().update_info('iter', 0)
    for _ in range(3):
        batch = model.data_preprocessor(copy.deepcopy(raw), True)
        assert batch['teacher_inputs'][0].shape == batch['inputs'].shape


@pytest.mark.parametrize(
    'change',
    [
        dict(pad_mask=True),
        dict(pad_seg=True, seg_pad_value=0),
        dict(boxtype2tensor=False),
        dict(mask_pad_value=1),
    ],
)
def test_same_preprocessing_ignores_how_labels_are_written(change: dict[str, Any]) -> None:
    base = dict(mean=[120.0] * 3, std=[60.0] * 3, pad_size_divisor=32)
    assert same_preprocessing(DetDataPreprocessor(**base), DetDataPreprocessor(**base, **change))
    assert not same_preprocessing(
        DetDataPreprocessor(**base), DetDataPreprocessor(**{**base, 'pad_size_divisor': 1})
    )


#: The map that the pairs of a method regress, and the convolution that made it.
TARGET = {'neck[1]', 'neck.fpn_convs.1.conv', 'neck.fpn_convs.1'}
PAIRS = [dict(student='neck[1]', teacher='neck[1]')]
FACTORS = [dict(PAIRS[0], checkpoint='paraphraser.pth')]
AMTML = dict(
    type='AMTMLKD',
    student_groups=['backbone[1]', 'backbone[1]'],
    teacher_taps='neck[1]',
    mapping=[0, 1],
)


@pytest.mark.parametrize('family', ['retinanet', 'faster_rcnn'])
@pytest.mark.parametrize(
    ('methods', 'number', 'targets'),
    [
        (dict(kd=dict(type='SoftTarget')), 1, set()),
        (dict(at=dict(type='AttentionTransfer', pairs=PAIRS)), 1, set()),
        (dict(kd=dict(type='SoftTarget'), hint=dict(type='Hint', pairs=PAIRS)), 1, TARGET),
        (dict(amtml=AMTML), 2, TARGET),
        (
            dict(
                ft=dict(type='FactorTransfer', pairs=FACTORS), ie=dict(type='IEKD', pairs=FACTORS)
            ),
            1,
            set(),
        ),
    ],
    ids=['scores', 'attention', 'both', 'amtml', 'factors'],
)
def test_distiller_step_keeps_no_tensor_of_a_teacher_but_its_targets(
    family: str,
    methods: dict[str, Any],
    number: int,
    targets: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Targets are score rows of weighted locations, and maps of hints; a view keeps all memory."""
    config = small.detector(family)
    seeds = range(1, number + 1)
    # A fast teacher copies its maps, and none of what the modules returned is kept.
    teachers = [small.teacher(tmp_path, config, seed, fast=False) for seed in seeds]
    if 'ft' in methods:
        trainer = dict(type='mmkd_plugin.ParaphraserTrainer', teacher=teachers[0], tap='neck[1]')
        torch.save(
            dict(state_dict=ROOT_MODELS.build(trainer).state_dict()), tmp_path / 'paraphraser.pth'
        )
        monkeypatch.chdir(tmp_path)
    model = small.distiller(tmp_path, config, teachers, methods=methods)
    kept: list[tuple[str, StorageWeakRef]] = []
    with_gradient: list[str] = []

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            if output.requires_grad:
                with_gradient.append(name)
            kept.append((name, StorageWeakRef(output.untyped_storage())))
        elif isinstance(output, (tuple, list)):
            for index, item in enumerate(output):
                note(f'{name}[{index}]', item)

    for one in model.teachers:
        for name, module in one.model.named_modules():
            module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
    losses = small.losses_of(model, small.batch_for(family))
    total = small.total(model, losses)
    gc.collect()
    assert len(kept) > 50 * number and not with_gradient
    assert {name for name, reference in kept if not reference.expired()} == targets
    total.backward()
