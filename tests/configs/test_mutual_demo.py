"""The demo of mutual learning."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample

FOLDER = Path(__file__).parents[2] / 'configs/demo'


@pytest.mark.parametrize('name', ['dml', 'ie_dml'])
def test_two_of_the_demos_student_teach_each_other(name: str) -> None:
    cfg, alone = (Config.fromfile(FOLDER / f'{config}.py') for config in (name, 'student_alone'))
    assert [peer.model for peer in cfg.model.peers] == [alone.model] * 2
    for key in (
        'data_preprocessor',
        'train_dataloader',
        'val_dataloader',
        'param_scheduler',
        'train_cfg',
        'randomness',
    ):
        assert cfg[key] == alone[key], key
    assert cfg.optim_wrapper == {
        **alone.optim_wrapper,
        'constructor': 'mmkd_plugin.PeerOptimWrappers',
    }
    model = MODELS.build(
        {**cfg.model, 'data_preprocessor': cfg.data_preprocessor, '_scope_': 'mmpretrain'}
    ).train()
    images = torch.randint(256, (8, 1, 28, 28), dtype=torch.uint8)
    data = dict(
        inputs=list(images), data_samples=[DataSample().set_gt_label(label) for label in range(8)]
    )
    logged = model.train_step(data, build_optim_wrapper(model, cfg.optim_wrapper))
    assert all(value.isfinite() for value in logged.values())
