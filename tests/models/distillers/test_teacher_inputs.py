"""Batches for teachers with another preprocessing, to the bit."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.models.utils import ClsDataPreprocessor
from torch import Tensor, nn

from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.models.distillers.teacher_inputs import TeacherInputs, same_preprocessing

OTHER = dict(type='ClsDataPreprocessor', mean=[10.0, 20.0, 30.0], std=[2.0, 3.0, 4.0], to_rgb=True)
PADDED = dict(
    type='ClsDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3, pad_size_divisor=12, pad_value=7
)


def preprocess(config: dict[str, Any]) -> Tensor:
    """Preprocess the raw batch with this config alone."""
    plain = {key: value for key, value in config.items() if key != 'type'}
    return ClsDataPreprocessor(**plain)(tiny.batch_of())['inputs']


def distiller(folder: Path, preprocessors: list[Any], **changes: Any) -> Distiller:
    teachers = tiny.teachers(folder, len(preprocessors), fast=False)  # it receives the very batch
    for teacher, preprocessor in zip(teachers, preprocessors, strict=True):
        if preprocessor is not None:
            teacher['data_preprocessor'] = preprocessor
    return tiny.distiller(folder, teachers=teachers, **changes)


def step_inputs(model: Distiller) -> tuple[list[Tensor], dict[str, Any]]:
    """Run one training step; return each teacher's inputs and the student's batch."""
    inputs: list[Tensor] = []
    for teacher in model.teachers:
        teacher.model.backbone.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    batch = model.data_preprocessor(tiny.batch_of(), True)
    model(**batch, mode='loss')
    return inputs, batch


def test_teachers_with_their_own_preprocessing_receive_its_images(tmp_path: Path) -> None:
    inputs, batch = step_inputs(distiller(tmp_path, [OTHER, None, PADDED, OTHER]))
    assert torch.equal(batch['inputs'], preprocess(tiny.preprocessor()))
    for got, config in zip(inputs, (OTHER, tiny.preprocessor(), PADDED, OTHER), strict=True):
        assert torch.equal(got, preprocess({**config, 'pad_size_divisor': 1}))
    assert inputs[2].shape == (8, 3, 8, 8), 'the padding is that of the run'


def test_teachers_of_equal_preprocessing_share_one_batch(tmp_path: Path) -> None:
    inputs, batch = step_inputs(distiller(tmp_path, [OTHER, None, PADDED, OTHER]))
    assert len(batch['teacher_inputs']) == 2
    assert inputs[0] is inputs[3] is batch['teacher_inputs'][0]
    assert inputs[1] is batch['inputs']


def test_preprocessor_without_another_preprocessing_is_the_students(tmp_path: Path) -> None:
    # The number of classes changes labels, and no image.
    model = distiller(tmp_path, [None, dict(tiny.preprocessor(), num_classes=9)])
    assert model.data_preprocessor is model.student.data_preprocessor


@pytest.mark.parametrize('probs', [None, 0.5])
def test_mixup_with_two_preprocessings_draws_one_mixture(
    tmp_path: Path, probs: float | None
) -> None:
    augments = dict(
        augments=dict(type='Mixup', alpha=1.0), **({} if probs is None else dict(probs=probs))
    )
    model = distiller(tmp_path, [OTHER, None], student=tiny.classifier(train_cfg=augments))
    own, other = preprocess(tiny.preprocessor()), preprocess(OTHER)
    mixtures = 0
    for _ in range(8):
        inputs, batch = step_inputs(model)
        assert inputs[1] is batch['inputs']
        scores = torch.stack([sample.gt_score for sample in batch['data_samples']])
        # Image i is lam of itself and 1 - lam of another; so are its scores.
        lam, permutation = found_mixture(own, batch['inputs'])
        torch.testing.assert_close(
            inputs[0], lam * other + (1 - lam) * other[permutation], rtol=1e-5, atol=1e-4
        )
        one_hot = torch.eye(4)[torch.arange(8) % 4]
        torch.testing.assert_close(
            scores, lam * one_hot + (1 - lam) * one_hot[permutation], rtol=1e-4, atol=1e-4
        )
        mixtures += lam < 1
        model.teachers[0].model.backbone._forward_pre_hooks.clear()
        model.teachers[1].model.backbone._forward_pre_hooks.clear()
    assert mixtures == 8 if probs is None else 0 < mixtures < 8


def found_mixture(images: Tensor, mixture: Tensor) -> tuple[float, Tensor]:
    """Find the lambda and the permutation of a mixture, by least squares over all pairs."""
    if torch.equal(images, mixture):
        return 1.0, torch.arange(len(images))
    partners, lambdas = [], []
    for image, mix in zip(images, mixture, strict=True):
        fits = []
        for other in images:
            direction = image - other
            lam = float(
                ((mix - other) * direction).sum() / direction.square().sum().clamp_min(1e-12)
            )
            fits.append((float((lam * image + (1 - lam) * other - mix).square().sum()), lam))
        best = min(range(len(fits)), key=fits.__getitem__)
        partners.append(best)
        lambdas.append(fits[best][1])
    moved = [
        lam for i, (lam, partner) in enumerate(zip(lambdas, partners, strict=True)) if i != partner
    ]
    return float(torch.tensor(moved).median()), torch.tensor(partners)


def test_cutmix_with_two_preprocessings_cuts_the_same_boxes(tmp_path: Path) -> None:
    augments = dict(augments=dict(type='CutMix', alpha=1.0))
    model = distiller(tmp_path, [OTHER, None], student=tiny.classifier(train_cfg=augments))
    own, other = preprocess(tiny.preprocessor()), preprocess(OTHER)
    inputs, batch = step_inputs(model)
    # Each pixel of the mixture comes from one image: the same for student and teacher.
    found = (own[None] == batch['inputs'][:, None]).all(dim=2)  # (mixture, source, H, W)
    source = found.float().argmax(dim=1)
    assert found.any(dim=1).all()
    assert (source != torch.arange(8)[:, None, None]).any(), 'something was cut'
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing='ij')
    expected = other.permute(0, 2, 3, 1)[source, rows, columns].permute(0, 3, 1, 2)
    assert torch.equal(inputs[0], expected)


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix', 'ResizeMix'])
def test_batch_augmentation_with_two_preprocessings_draws_as_with_one(
    tmp_path: Path, augment: str
) -> None:
    """With a teacher of another preprocessing, the student's batches are those of a run without."""

    def batches(preprocessor: Any) -> tuple[list[Tensor], tuple[float, float, float]]:
        student = tiny.classifier(
            train_cfg=dict(augments=[dict(type=augment, alpha=1.0)], probs=[0.7])
        )
        model = distiller(tmp_path, [preprocessor], student=student)
        random.seed(4)
        np.random.seed(4)
        torch.manual_seed(4)
        inputs = [model.data_preprocessor(tiny.batch_of(), True)['inputs'] for _ in range(4)]
        return inputs, (random.random(), np.random.rand(), torch.rand(1).item())

    (one, after_one), (other, after_other) = batches(OTHER), batches(None)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert after_one == after_other


def test_teacher_inputs_in_evaluation_are_left_out_and_raw_data_unchanged(tmp_path: Path) -> None:
    inputs = distiller(tmp_path, [OTHER]).data_preprocessor
    assert isinstance(inputs, TeacherInputs)
    assert inputs(tiny.batch_of(), False).keys() == {'inputs', 'data_samples'}
    raw = tiny.batch_of()
    inputs(raw, True)
    assert all(
        torch.equal(a, b) for a, b in zip(raw['inputs'], tiny.batch_of()['inputs'], strict=True)
    )


def test_batch_augments_set_by_a_hook_change_for_all(tmp_path: Path) -> None:
    """MMPretrain's SwitchRecipeHook sets ``model.data_preprocessor.batch_augments``."""
    augments = dict(augments=[dict(type='Mixup', alpha=1.0)])
    model = distiller(tmp_path, [OTHER], student=tiny.classifier(train_cfg=augments))
    assert model.data_preprocessor.batch_augments is not None
    model.data_preprocessor.batch_augments = None
    batch = model.data_preprocessor(tiny.batch_of(), True)
    assert torch.equal(batch['teacher_inputs'][0], preprocess(OTHER))
    assert torch.equal(batch['inputs'], preprocess(tiny.preprocessor()))


@pytest.mark.parametrize(
    'change',
    [
        dict(mean=[1.0] * 3),
        dict(std=[1.0] * 3),
        dict(to_rgb=True),
        dict(pad_size_divisor=32),
        dict(pad_value=3),
        dict(mean=None, std=None),
    ],
)
def test_same_preprocessing_with_other_images_is_false(change: dict[str, Any]) -> None:
    base = dict(mean=[120.0] * 3, std=[60.0] * 3)
    other = ClsDataPreprocessor(**{**base, **change})
    assert not same_preprocessing(ClsDataPreprocessor(**base), other)


def test_same_preprocessing_with_other_labels_is_true() -> None:
    base = dict(mean=[120.0] * 3, std=[60.0] * 3)
    other = ClsDataPreprocessor(**base, to_onehot=True, num_classes=3)
    assert same_preprocessing(ClsDataPreprocessor(**base), other)


def test_teacher_trained_with_an_augmentation_receives_the_students_images(
    tmp_path: Path,
) -> None:
    model = classifier_trained_with_mixup(tmp_path)
    inputs, batch = step_inputs(model)
    assert torch.equal(inputs[0], preprocess(OTHER))
    assert torch.equal(batch['inputs'], preprocess(tiny.preprocessor()))


def classifier_trained_with_mixup(folder: Path) -> Distiller:
    config = tiny.classifier(train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)], probs=[0.9]))
    teacher = dict(
        model=config,
        checkpoint=tiny.checkpoint(folder),
        data_preprocessor=dict(OTHER, num_classes=4),
    )
    return tiny.distiller(folder, teachers=[teacher])


@ROOT_MODELS.register_module(force=True)
class OwnFrame(ClsDataPreprocessor):
    """A preprocessor of another project: it adds a frame of 4 pixels, or resizes."""

    def __init__(self, value: Any = 0.0, resize: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.value, self.resize = value, resize

    def forward(self, data: Any, training: bool = False) -> Any:
        self.pad_size_divisor = 1  # no setting of the run changes it
        batch = super().forward(data, training)
        images = batch['inputs']
        if self.resize:
            return {**batch, 'inputs': nn.functional.interpolate(images, scale_factor=2)}
        framed = torch.zeros(len(images), 3, 12, 12) + torch.tensor(self.value).view(-1, 1, 1)
        framed[:, :, :8, :8] = images
        return {**batch, 'inputs': framed}


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_padding_is_that_of_the_run_before_images_are_mixed(tmp_path: Path, augment: str) -> None:
    student = tiny.classifier(train_cfg=dict(augments=[dict(type=augment, alpha=1.0)]))
    batch = distiller(tmp_path, [PADDED], student=student).data_preprocessor(tiny.batch_of(), True)
    own = (batch['inputs'] * 60 + 120) / 255  # in the units of the teacher's preprocessing
    torch.testing.assert_close(batch['teacher_inputs'][0], own, rtol=1e-4, atol=1e-4)


def test_teacher_is_evaluated_with_its_own_padding(tmp_path: Path) -> None:
    model = distiller(tmp_path, [PADDED])
    assert model.teachers[0].data_preprocessor.pad_size_divisor == 12
    assert model.data_preprocessor.others[0].pad_size_divisor == 1


@pytest.mark.parametrize('value', [0.0, [1.0, 2.0, 3.0]])
def test_padding_that_the_run_has_not_is_cut_off(tmp_path: Path, value: Any) -> None:
    inputs, batch = step_inputs(distiller(tmp_path, [dict(type='OwnFrame', value=value)]))
    assert torch.equal(inputs[0], preprocess(dict(type='x')))
    assert inputs[0].shape == batch['inputs'].shape == (8, 3, 8, 8)


def test_padding_of_the_run_is_added(tmp_path: Path) -> None:
    run = dict(tiny.preprocessor(), pad_size_divisor=16)
    inputs, batch = step_inputs(
        distiller(tmp_path, [dict(type='OwnFrame', value=7.0)], data_preprocessor=run)
    )
    assert inputs[0].shape == batch['inputs'].shape == (8, 3, 16, 16)
    assert torch.equal(inputs[0][:, :, :8, :8], preprocess(dict(type='x')))
    assert inputs[0][:, :, 8:].unique().tolist() == [7.0]


def test_resized_images_show_the_whole_image_and_stay(tmp_path: Path) -> None:
    inputs, batch = step_inputs(distiller(tmp_path, [dict(type='OwnFrame', resize=True)]))
    assert inputs[0].shape == (8, 3, 16, 16) and batch['inputs'].shape == (8, 3, 8, 8)


def test_resized_images_beside_padded_ones_are_refused(tmp_path: Path) -> None:
    run = dict(tiny.preprocessor(), pad_size_divisor=12)
    model = distiller(tmp_path, [dict(type='OwnFrame', resize=True)], data_preprocessor=run)
    with raises_config_error('teachers', (16, 16), '(12, 12)', '(8, 8)', fix='padding'):
        step_inputs(model)


def test_preprocessor_of_a_teacher_that_makes_a_list_of_images_is_refused(tmp_path: Path) -> None:
    """Those of self-supervised models do, from the batches of a classifier."""
    own = dict(type='SelfSupDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3)
    hint = dict(type='Hint', pairs=[dict(student='backbone[-1]', teacher='backbone[-1]')])
    config = dict(
        type='SimCLR',
        backbone=tiny.classifier()['backbone'],
        neck=dict(type='NonLinearNeck', in_channels=16, hid_channels=8, out_channels=8),
        head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss')),
        data_preprocessor=own,
    )
    path = tiny.checkpoint(tmp_path, config, seed=3)

    def model(**options: Any) -> Distiller:
        teacher = dict(name='t', model=config, checkpoint=path, **options)
        return tiny.distiller(tmp_path, teachers=[teacher], methods=dict(hint=hint))

    with raises_config_error('teachers', 'list', 'SelfSupDataPreprocessor', fix='cfg_options'):
        tiny.losses_of(model())
    remedy = {'model.data_preprocessor': {**tiny.preprocessor(), '_delete_': True}}
    assert tiny.losses_of(model(cfg_options=remedy))['hint.loss_hint'] > 0
