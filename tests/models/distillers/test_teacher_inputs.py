"""What a teacher sees, to the last bit."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import classification as tiny
from mmpretrain.models.utils import ClsDataPreprocessor
from torch import Tensor

from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.models.distillers.teacher_inputs import TeacherInputs, same_contract

OTHER = dict(type='ClsDataPreprocessor', mean=[10.0, 20.0, 30.0], std=[2.0, 3.0, 4.0], to_rgb=True)
PADDED = dict(
    type='ClsDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3, pad_size_divisor=12, pad_value=7
)


def preprocess(config: dict[str, Any]) -> Tensor:
    """What this contract alone makes of the raw batch."""
    plain = {key: value for key, value in config.items() if key != 'type'}
    return ClsDataPreprocessor(**plain)(tiny.batch_of())['inputs']


def distiller(folder: Path, contracts: list[Any], **changes: Any) -> Distiller:
    taught = tiny.teachers(folder, len(contracts))
    for config, contract in zip(taught, contracts, strict=True):
        if contract is not None:
            config['data_preprocessor'] = contract
    return tiny.distiller(folder, teachers=taught, **changes)


def seen_by_teachers(model: Distiller) -> tuple[list[Tensor], dict[str, Any]]:
    """The inputs that reach each teacher's network, and the student's batch, of one training step."""
    inputs: list[Tensor] = []
    for taught in model.teachers:
        taught.model.backbone.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    batch = model.data_preprocessor(tiny.batch_of(), True)
    model(**batch, mode='loss')
    return inputs, batch


def test_each_teacher_sees_exactly_what_its_own_preprocessor_makes(tmp_path: Path) -> None:
    inputs, batch = seen_by_teachers(distiller(tmp_path, [OTHER, None, PADDED, OTHER]))
    assert torch.equal(batch['inputs'], preprocess(tiny.PREPROCESSOR))
    for got, contract in zip(inputs, (OTHER, tiny.PREPROCESSOR, PADDED, OTHER), strict=True):
        assert torch.equal(got, preprocess(contract))
    assert inputs[2].shape == (8, 3, 12, 12)


def test_a_contract_is_computed_once(tmp_path: Path) -> None:
    inputs, batch = seen_by_teachers(distiller(tmp_path, [OTHER, None, PADDED, OTHER]))
    assert len(batch['teacher_inputs']) == 2
    assert inputs[0] is inputs[3] is batch['teacher_inputs'][0]
    assert inputs[1] is batch['inputs']


def test_without_a_contract_of_its_own_nothing_is_wrapped(tmp_path: Path) -> None:
    model = distiller(
        tmp_path, [None, dict(tiny.PREPROCESSOR, num_classes=9)]
    )  # how labels are written is no contract
    assert model.data_preprocessor is model.student.data_preprocessor


@pytest.mark.parametrize('probs', [None, 0.5])
def test_mixup_draws_one_mixture_for_all(tmp_path: Path, probs: float | None) -> None:
    augments = dict(
        augments=dict(type='Mixup', alpha=1.0), **({} if probs is None else dict(probs=probs))
    )
    model = distiller(tmp_path, [OTHER, None], student=tiny.classifier(train_cfg=augments))
    own, other = preprocess(tiny.PREPROCESSOR), preprocess(OTHER)
    mixtures = 0
    for _ in range(8):
        inputs, batch = seen_by_teachers(model)
        assert inputs[1] is batch['inputs']
        scores = torch.stack([sample.gt_score for sample in batch['data_samples']])
        # The scores tell the mixture: image i is lam of itself and 1 - lam of another, and so are its classes.
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
    """The lambda and the permutation that make ``mixture`` of ``images``, by least squares over all pairs."""
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


def test_cutmix_cuts_the_same_box_from_the_same_images(tmp_path: Path) -> None:
    augments = dict(augments=dict(type='CutMix', alpha=1.0))
    model = distiller(tmp_path, [OTHER, None], student=tiny.classifier(train_cfg=augments))
    own, other = preprocess(tiny.PREPROCESSOR), preprocess(OTHER)
    inputs, batch = seen_by_teachers(model)
    # Each pixel of the mixture comes from one image: find it in the student's, expect it in the teacher's.
    found = (own[None] == batch['inputs'][:, None]).all(dim=2)  # (mixture, source, H, W)
    source = found.float().argmax(dim=1)
    assert found.any(dim=1).all()
    assert (source != torch.arange(8)[:, None, None]).any(), 'something was cut'
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing='ij')
    expected = other.permute(0, 2, 3, 1)[source, rows, columns].permute(0, 3, 1, 2)
    assert torch.equal(inputs[0], expected)


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix', 'ResizeMix'])
def test_the_runs_random_numbers_stay_its_own(tmp_path: Path, augment: str) -> None:
    """With a teacher of another contract, the student's batches are those of a run without."""

    def batches(contract: Any) -> tuple[list[Tensor], tuple[float, float, float]]:
        student = tiny.classifier(
            train_cfg=dict(augments=[dict(type=augment, alpha=1.0)], probs=[0.7])
        )
        model = distiller(tmp_path, [contract], student=student)
        random.seed(4)
        np.random.seed(4)
        torch.manual_seed(4)
        inputs = [model.data_preprocessor(tiny.batch_of(), True)['inputs'] for _ in range(4)]
        return inputs, (random.random(), np.random.rand(), torch.rand(1).item())

    (one, after_one), (other, after_other) = batches(OTHER), batches(None)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert after_one == after_other


def test_only_training_makes_teacher_inputs_and_raw_data_stay_whole(tmp_path: Path) -> None:
    inputs = distiller(tmp_path, [OTHER]).data_preprocessor
    assert isinstance(inputs, TeacherInputs)
    assert inputs(tiny.batch_of(), False).keys() == {'inputs', 'data_samples'}
    raw = tiny.batch_of()
    inputs(raw, True)
    assert all(
        torch.equal(a, b) for a, b in zip(raw['inputs'], tiny.batch_of()['inputs'], strict=True)
    )


def test_a_hook_that_switches_the_augmentation_switches_it_for_all(tmp_path: Path) -> None:
    """MMPretrain's SwitchRecipeHook sets ``model.data_preprocessor.batch_augments``."""
    augments = dict(augments=[dict(type='Mixup', alpha=1.0)])
    model = distiller(tmp_path, [OTHER], student=tiny.classifier(train_cfg=augments))
    assert model.data_preprocessor.batch_augments is not None
    model.data_preprocessor.batch_augments = None
    batch = model.data_preprocessor(tiny.batch_of(), True)
    assert torch.equal(batch['teacher_inputs'][0], preprocess(OTHER))
    assert torch.equal(batch['inputs'], preprocess(tiny.PREPROCESSOR))


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
def test_what_changes_images_is_another_contract(change: dict[str, Any]) -> None:
    base = dict(mean=[120.0] * 3, std=[60.0] * 3)
    assert not same_contract(ClsDataPreprocessor(**base), ClsDataPreprocessor(**{**base, **change}))
    assert same_contract(
        ClsDataPreprocessor(**base), ClsDataPreprocessor(**base, to_onehot=True, num_classes=3)
    )


def test_the_augmentation_is_the_students_even_if_the_teacher_was_trained_with_another(
    tmp_path: Path,
) -> None:
    model = classifier_trained_with_mixup(tmp_path)
    inputs, batch = seen_by_teachers(model)
    assert torch.equal(inputs[0], preprocess(OTHER))
    assert torch.equal(batch['inputs'], preprocess(tiny.PREPROCESSOR))


def classifier_trained_with_mixup(folder: Path) -> Distiller:
    config = tiny.classifier(train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)], probs=[0.9]))
    taught = dict(
        model=config,
        checkpoint=tiny.checkpoint(folder),
        data_preprocessor=dict(OTHER, num_classes=4),
    )
    return tiny.distiller(folder, teachers=[taught])


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_boxes_cannot_be_cut_alike_from_images_of_two_sizes(tmp_path: Path, augment: str) -> None:
    student = tiny.classifier(train_cfg=dict(augments=[dict(type=augment, alpha=1.0)]))
    model = distiller(tmp_path, [PADDED], student=student)
    if augment == 'Mixup':  # which mixes whole images
        assert model.data_preprocessor(tiny.batch_of(), True)['teacher_inputs'][0].shape == (
            8,
            3,
            12,
            12,
        )
    else:
        message = r"^teachers: expected images padded to the student's \(8, 3, 8, 8\), .*, got \(8, 3, 12, 12\)"
        with pytest.raises(ValueError, match=message):
            model.data_preprocessor(tiny.batch_of(), True)
