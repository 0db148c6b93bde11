"""Statistics of the teachers' logits over the transfer set."""

from typing import Any

import torch
from mmengine import dist
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmkd_plugin.engine.hooks.distiller_of import distiller_of
from mmkd_plugin.models.methods import LogitMimic
from mmkd_plugin.models.methods.scores import stacked_logits
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class MeasureLogits(Hook):
    """Before training, take the mean and standard deviation of the teachers' mean logits, per class, for ``LogitMimic(standardize=True)``.

    One pass over the training data, as it is augmented, without labels. The result is saved with the run.

    Source: Ba, Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014, section 2.2: targets with mean 0 and standard deviation 1.
    """

    def before_train(self, runner: Runner) -> None:
        distiller = distiller_of(runner, self)
        waiting = [
            m for m in distiller.methods.values() if isinstance(m, LogitMimic) and not m.measured
        ]
        if not waiting:
            return
        runner.logger.info('Measuring the teachers’ logits over the training set')
        sums = torch.zeros(3, 1, dtype=torch.float64)  # of ones, logits and their squares
        for data in _one_pass(runner.train_dataloader):
            batch = distiller.data_preprocessor(data, True)
            logits = stacked_logits(distiller.ask_teachers(batch)).mean(dim=1).double()
            moments = torch.stack([torch.ones_like(logits), logits, logits.square()])
            sums = sums.to(logits.device) + moments.sum(dim=1)
        dist.all_reduce(sums)
        mean = sums[1] / sums[0]
        std = (sums[2] / sums[0] - mean.square()).clamp_min(0).sqrt()
        for method in waiting:
            method.set_statistics(mean, std)


def _one_pass(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of the same batches in order: an infinite sampler never ends, and one that is left in mid-way gives no more."""
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=DefaultSampler(loader.dataset, shuffle=False),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )
