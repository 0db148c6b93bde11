"""IE-KD in the demo's configs: from a larger teacher, and from one that is smaller than its student."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny  # noqa: F401  it imports the host, whose warnings are not ours
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from mmkd_plugin.engine.stages import work_root

FOLDER = Path(__file__).parents[2] / 'configs/demo'
CHAINS = [
    ('teacher_resnet14', 'paraphraser', 'ie_kd', 'student_alone'),
    ('student_alone', 'paraphraser_small', 'ie_kd_larger', 'larger_alone'),
]


def read(name: str) -> Config:
    return Config.fromfile(FOLDER / f'{name}.py')


def built(name: str, cfg: Config | None = None) -> Any:
    cfg = cfg or read(name)
    return MODELS.build(
        {**cfg.model, 'data_preprocessor': cfg.data_preprocessor, '_scope_': 'mmpretrain'}
    )


def saved(name: str) -> Any:
    """The stage, built, and its checkpoint where the last epoch would leave it."""
    cfg = read(name)
    model, folder = built(name, cfg), work_root() / name
    folder.mkdir(parents=True)
    torch.save(
        dict(state_dict=model.state_dict()), folder / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    )
    return model


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('chain', CHAINS, ids=lambda chain: chain[2])
def test_each_stage_takes_the_last_checkpoint_of_the_one_before(chain: tuple[str, ...]) -> None:
    teacher, paraphraser, distillation, alone = chain
    saved(teacher)
    saved(paraphraser)
    cfg = read(distillation)
    model = built(distillation, cfg)
    assert {name: value.shape for name, value in model.student.state_dict().items()} == {
        name: value.shape for name, value in built(alone).state_dict().items()
    }
    images = torch.randint(256, (8, 1, 28, 28), dtype=torch.uint8)
    batch = dict(
        inputs=list(images), data_samples=[DataSample().set_gt_label(index) for index in range(8)]
    )
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    total, logged = model.parse_losses(
        model(**model.train().data_preprocessor(batch, True), mode='loss')
    )
    assert {'task.loss', 'ie.loss_inherit', 'ie.loss_explore', 'ie.cka'} <= logged.keys()
    assert all(value.isfinite() for value in logged.values())
    wrapper.backward(total)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, p in learning.items() if p.grad is None or not p.grad.any()], (
        'every parameter learns'
    )


@pytest.mark.parametrize('chain', CHAINS, ids=lambda chain: chain[2])
def test_distilled_and_alone_are_trained_alike(chain: tuple[str, ...]) -> None:
    distilled, alone = read(chain[2]), read(chain[3])
    for key in (
        'train_dataloader',
        'val_dataloader',
        'optim_wrapper',
        'param_scheduler',
        'train_cfg',
        'randomness',
    ):
        assert distilled[key] == alone[key], key


def test_the_larger_student_is_larger_than_its_teacher() -> None:
    teacher, *_, student = CHAINS[1]
    assert (size(built(teacher)), size(built(student))) == (19_810, 77_754)
