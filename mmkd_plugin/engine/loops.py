"""Validation and test of several networks in one pass over the data."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import TestLoop, ValLoop
from mmengine.runner.amp import autocast

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.peer_entries import ENSEMBLE
from mmkd_plugin.loading.run_model import unwrap
from mmkd_plugin.models.distillers import MutualDistiller
from mmkd_plugin.registry import LOOPS


class PeerEvaluator(Evaluator):
    """One evaluator for each network.

    Metrics are called ``<peer>/<metric>``, and ``mean/<metric>`` over the peers.

    Args:
        evaluator: Evaluator of one network; each network gets a copy.
        peers: Names of the peers.
        ensemble: Whether the mean of their predictions is evaluated as well.
        predicting: The peer whose predictions go to metrics that are added later
            (``DumpResults``).
    """

    def __init__(
        self, evaluator: Evaluator, peers: Sequence[str], ensemble: bool, predicting: str
    ) -> None:
        super().__init__([])
        self.peers = tuple(peers)
        self.predicting = predicting
        names = [*peers, *([ENSEMBLE] if ensemble else [])]
        self.by_name = {name: copy.deepcopy(evaluator) for name in names}

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Meta information of the dataset, for all metrics."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict[str, Any]) -> None:
        self._dataset_meta = meta
        for part in (*self.metrics, *self.by_name.values()):
            part.dataset_meta = meta

    def process(self, data_samples: Mapping[str, Sequence[Any]], data_batch: Any = None) -> None:
        """Process the predictions of one batch, by name."""
        for name, evaluator in self.by_name.items():
            evaluator.process(data_samples[name], data_batch)
        super().process(data_samples[self.predicting], data_batch)

    def evaluate(self, size: int) -> dict[str, Any]:
        """Return all metrics, over all processes."""
        found = {name: evaluator.evaluate(size) for name, evaluator in self.by_name.items()}
        metrics = {
            f'{name}/{metric}': value
            for name, own in found.items()
            for metric, value in own.items()
        }
        for metric, value in found[self.peers[0]].items():
            if isinstance(value, (int, float, np.number)):
                total = sum(found[name][metric] for name in self.peers)
                metrics[f'mean/{metric}'] = total / len(self.peers)
        return {**metrics, **super().evaluate(size)}


@LOOPS.register_module()
class PeerValLoop(ValLoop):
    """Validate every peer of a :class:`MutualDistiller` and their ensemble.

    Set ``val_cfg=dict(type='mmkd_plugin.PeerValLoop')``. ``save_best='mean/accuracy/top1'`` then
    chooses by the mean of the peers, ``'<peer>/accuracy/top1'`` by one of them.

    Raises:
        ConfigError: If the run trains another model.
    """

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, evaluator, **kwargs)
        _evaluate_peers(self, 'val_cfg')

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Evaluate one batch."""
        _run_iter(self, 'val', idx, data_batch)


@LOOPS.register_module()
class PeerTestLoop(TestLoop):
    """Test every peer and their ensemble; see :class:`PeerValLoop`.

    Set ``test_cfg=dict(type='mmkd_plugin.PeerTestLoop')``.

    Raises:
        ConfigError: If the run trains another model.
    """

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, evaluator, **kwargs)
        _evaluate_peers(self, 'test_cfg')

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Evaluate one batch."""
        _run_iter(self, 'test', idx, data_batch)


def _evaluate_peers(loop: ValLoop | TestLoop, key: str) -> None:
    model = unwrap(loop.runner.model)
    if not isinstance(model, MutualDistiller):
        raise ConfigError(
            f'{key}.type',
            f'mmkd_plugin.{type(loop).__name__} needs mmkd_plugin.MutualDistiller as model',
            f'Remove {key}.type.',
            found=type(model).__name__,
        )
    meta = loop.evaluator.dataset_meta
    loop.evaluator = PeerEvaluator(loop.evaluator, model.names, model.can_average, model.predict)
    loop.evaluator.dataset_meta = meta


def _run_iter(loop: ValLoop | TestLoop, stage: str, idx: int, batch: Any) -> None:
    loop.runner.call_hook(f'before_{stage}_iter', batch_idx=idx, data_batch=batch)
    model = unwrap(loop.runner.model)
    with autocast(enabled=loop.fp16):
        outputs = model.predictions(batch)
    loop.evaluator.process(data_samples=outputs, data_batch=batch)
    loop.runner.call_hook(
        f'after_{stage}_iter', batch_idx=idx, data_batch=batch, outputs=outputs[model.predict]
    )
