"""Statistics of the teachers' logits over the transfer set."""

from pathlib import Path

import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error


def test_measure_logits_without_labels_measure_the_mean_teacher_over_the_transfer_set(
    tmp_path: Path,
) -> None:
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


def test_logit_mimic_with_standardize_but_without_measure_logits_raises_in_the_first_step(
    tmp_path: Path,
) -> None:
    methods = dict(mimic=dict(type='LogitMimic', standardize=True))
    run = tiny.runner(tiny.distiller_config(tmp_path, methods=methods), tmp_path / 'run')
    with raises_config_error('methods.mimic.standardize', True, 'MeasureLogits', fix=''):
        run.train()
    assert run.iter == 0
