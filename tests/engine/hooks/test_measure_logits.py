from pathlib import Path

import pytest
import torch
from helpers import classification as tiny


def test_statistics_are_the_teachers_over_the_transfer_set_without_labels(tmp_path: Path) -> None:
    methods = dict(mimic=dict(type='LogitMimic', standardize=True))
    model = tiny.distiller_config(tmp_path, methods=methods, task_weight=0.0)
    run = tiny.runner(
        model,
        tmp_path / 'run',
        dataset=dict(type='TinyImages', labels=False),
        custom_hooks=[dict(type='mmkd_plugin.MeasureLogits')],
    )
    run.train()
    mimic = run.model.methods['mimic']
    images = torch.stack([item['inputs'] for item in (tiny.TinyImages(16)[i] for i in range(16))])
    with torch.no_grad():
        logits = torch.stack(
            [teacher.model((images.float() - 120) / 60) for teacher in run.model.teachers]
        ).mean(dim=0)
    torch.testing.assert_close(mimic.logit_mean, logits.mean(dim=0))
    torch.testing.assert_close(mimic.logit_std, logits.std(dim=0, correction=0))


def test_without_the_hook_the_run_ends_before_the_first_step(tmp_path: Path) -> None:
    methods = dict(mimic=dict(type='LogitMimic', standardize=True))
    run = tiny.runner(tiny.distiller_config(tmp_path, methods=methods), tmp_path / 'run')
    with pytest.raises(ValueError, match=r'methods.mimic.standardize: expected .*MeasureLogits'):
        run.train()
    assert run.iter == 0
