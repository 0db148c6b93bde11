"""Statistics of the teachers' logits over the transfer set."""

from typing import Any

import torch
from mmengine import dist
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmkd_plugin.engine.hooks.run_distiller import run_distiller
from mmkd_plugin.models.methods import LogitMimic
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class MeasureLogits(Hook):
    """Measure the teachers' mean logits before training, for ``LogitMimic(standardize=True)``.

    The mean and the standard deviation per class are taken in one pass over the training data, as
    it is augmented, without labels. The result is saved with the run.

    Reference:
        Ba, Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014, section 2.2: targets with
        mean 0 and standard deviation 1.
    """

    def before_train(self, runner: Runner) -> None:
        distiller = run_distiller(runner, self)
        methods = distiller.methods.values()
        waiting = [one for one in methods if isinstance(one, LogitMimic) and not one.measured]
        if not waiting:
            return
        runner.logger.info('MeasureLogits: measuring the teachers over the training set')
        sums = torch.zeros(3, 1, dtype=torch.float64)  # of ones, logits and their squares
        for data in _one_pass(runner.train_dataloader):
            batch = distiller.data_preprocessor(data, True)
            outputs = distiller.observe_teachers(batch)
            scores = [output.scores for output in outputs if output.scores is not None]
            logits = torch.stack([one.logits[:, 0].float() for one in scores], dim=1)
            mean = logits.mean(dim=1).double()
            moments = torch.stack([torch.ones_like(mean), mean, mean.square()])
            sums = sums.to(mean.device) + moments.sum(dim=1)
        dist.all_reduce(sums)
        mean = sums[1] / sums[0]
        std = (sums[2] / sums[0] - mean.square()).clamp_min(0).sqrt()
        for method in waiting:
            method.set_statistics(mean, std)


def _one_pass(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader of the same data, in order and finite.

    An infinite sampler never ends, and a loader that was left half-way gives no more.
    """
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=DefaultSampler(loader.dataset, shuffle=False),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )
