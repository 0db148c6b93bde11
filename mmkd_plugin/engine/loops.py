"""Validation and test of several networks in one pass over the data."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.model import is_model_wrapper
from mmengine.runner import TestLoop, ValLoop
from mmengine.runner.amp import autocast

from mmkd_plugin.loading.peer_entries import ENSEMBLE
from mmkd_plugin.models.distillers.mutual_distiller import MutualDistiller
from mmkd_plugin.registry import LOOPS


class PeerEvaluator(Evaluator):
    """One evaluator a network; metrics are called ``<peer>/<metric>``, and ``mean/<metric>`` over the peers.

    Args:
        evaluator: Of one network; each gets a copy.
        peers: Their names.
        ensemble: Whether the mean of their predictions is evaluated as well.
        predicting: Whose predictions those metrics see that are added later (``DumpResults``).
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
        """Take the predictions of one batch, by name."""
        for name, evaluator in self.by_name.items():
            evaluator.process(data_samples[name], data_batch)
        super().process(data_samples[self.predicting], data_batch)

    def evaluate(self, size: int) -> dict[str, Any]:
        """All metrics, from all processes."""
        found = {name: evaluator.evaluate(size) for name, evaluator in self.by_name.items()}
        metrics = {
            f'{name}/{metric}': value
            for name, own in found.items()
            for metric, value in own.items()
        }
        for metric, value in found[self.peers[0]].items():
            if isinstance(value, (int, float, np.number)):
                metrics[f'mean/{metric}'] = sum(found[name][metric] for name in self.peers) / len(
                    self.peers
                )
        return {**metrics, **super().evaluate(size)}


@LOOPS.register_module()
class PeerValLoop(ValLoop):
    """Validate every peer of a :class:`MutualDistiller` and their ensemble: ``val_cfg=dict(type='mmkd_plugin.PeerValLoop')``.

    ``save_best='mean/accuracy/top1'`` then chooses by the peers' mean, ``'<peer>/accuracy/top1'`` by one of them.

    Raises:
        ValueError: If the run trains something else.
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
    """Test every peer and their ensemble: ``test_cfg=dict(type='mmkd_plugin.PeerTestLoop')``; see :class:`PeerValLoop`.

    Raises:
        ValueError: If the run trains something else.
    """

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, evaluator, **kwargs)
        _evaluate_peers(self, 'test_cfg')

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Evaluate one batch."""
        _run_iter(self, 'test', idx, data_batch)


def _evaluate_peers(loop: ValLoop | TestLoop, key: str) -> None:
    model = _model(loop)
    if not isinstance(model, MutualDistiller):
        raise ValueError(
            f'{key}.type: expected mmkd_plugin.{type(loop).__name__} in a run of mmkd_plugin.MutualDistiller, got '
            f'{type(model).__name__}'
        )
    meta = loop.evaluator.dataset_meta
    loop.evaluator = PeerEvaluator(loop.evaluator, model.names, model.can_average, model.predict)
    loop.evaluator.dataset_meta = meta


def _run_iter(loop: ValLoop | TestLoop, stage: str, idx: int, batch: Any) -> None:
    loop.runner.call_hook(f'before_{stage}_iter', batch_idx=idx, data_batch=batch)
    model = _model(loop)
    with autocast(enabled=loop.fp16):
        outputs = model.answers(batch)
    loop.evaluator.process(data_samples=outputs, data_batch=batch)
    loop.runner.call_hook(
        f'after_{stage}_iter', batch_idx=idx, data_batch=batch, outputs=outputs[model.predict]
    )


def _model(loop: ValLoop | TestLoop) -> Any:
    return loop.runner.model.module if is_model_wrapper(loop.runner.model) else loop.runner.model
