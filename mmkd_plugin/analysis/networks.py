"""The networks that are looked at: a distilled student, its parts, its teachers, and others to compare with."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmkd_plugin.adapters import Host, host_of
from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.analysis.parts import Part, parts_of
from mmkd_plugin.errors import config_key
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.checkpoint import load_weights
from mmkd_plugin.loading.student import is_distiller, load_student
from mmkd_plugin.models.distillers import Distiller


@dataclass(frozen=True)
class Network:
    """A trained network under the name that pictures give it; it sees each raw batch as its own preprocessor makes it."""

    name: str
    model: nn.Module
    host: Host

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def inputs(self, raw: Any) -> Tensor:
        """The preprocessed batch (N, C, H, W)."""
        return self._batch(raw)['inputs']

    def labels(self, raw: Any) -> Tensor:
        """Class indices (N,).

        Raises:
            ValueError: If the images do not have one label each.
        """
        labels = self.host.labels(self._batch(raw).get('data_samples'))
        if labels is None:
            raise ValueError('--split: expected images with one label each, got none')
        return labels.argmax(dim=1) if labels.ndim == 2 else labels

    def require_scores(self) -> tuple[str, ...]:
        """The taps that its class scores, (N, C), are made of.

        Raises:
            ValueError: If it does not give an image one class.
        """
        if self.host.task != 'classification' or not self.host.score_taps:
            raise ValueError(
                f'{self.name}: expected a classifier whose class scores are known, got {type(self.model).__name__}: '
                'only cka and active look at taps alone'
            )
        return self.host.score_taps

    def scores(self, taps: FeatureTaps, inputs: Tensor) -> Tensor:
        """Class scores (N, C) of a preprocessed batch, before the softmax.

        Args:
            taps: Of :meth:`require_scores`.
            inputs: (N, C, H, W).
        """
        with taps.record(self.model) as features:
            self.host.run(self.model, inputs, scores=True)
        logits = self.host.knowledge(self.model, features, inputs).logits
        assert isinstance(logits, Tensor)
        return logits

    def _batch(self, raw: Any) -> Mapping[str, Any]:
        preprocessor: Any = self.model.data_preprocessor
        batch: Mapping[str, Any] = preprocessor(
            copy.deepcopy(raw), False
        )  # frameworks write into what they are given
        return batch


@dataclass(frozen=True)
class Networks:
    """A student with the parts that IE-KD made of it, its teachers, and others to compare with."""

    student: Network
    teachers: Sequence[Network]
    others: Sequence[Network]
    parts: Sequence[Part]

    @property
    def all(self) -> list[Network]:
        """Teachers first, then the others, the student last."""
        return [*self.teachers, *self.others, self.student]


def load_networks(
    cfg: Config,
    checkpoint: str,
    against: Sequence[Sequence[str]] = (),
    device: str | torch.device = 'cpu',
) -> Networks:
    """Build what a distillation config says, load its run's checkpoint, and freeze all of it.

    Args:
        cfg: Of a :class:`~mmkd_plugin.models.distillers.Distiller`.
        checkpoint: What its run wrote: an exported student does not say how its channels were split.
        against: ``(config, checkpoint)`` or ``(config, checkpoint, name)`` each: the student of a distillation config, or the
            network of any other one.
        device: Where they run.

    Raises:
        ValueError: If the config trains something else, or a checkpoint does not fit.
    """
    if not is_distiller(cfg):
        raise ValueError(
            f'config: expected one of mmkd_plugin.Distiller, got {cfg.get("model", {}).get("type")!r}; another network may '
            'stand beside it as --against CONFIG CHECKPOINT'
        )
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        distiller: Distiller = ROOT_MODELS.build(model)
    load_weights(distiller, checkpoint, 'checkpoint')
    student = _frozen('student', distiller.student, distiller.host, device)
    teachers = [
        _frozen(teacher.name, teacher.model, teacher.host, device) for teacher in distiller.teachers
    ]
    others: list[Network] = []
    for given in against:
        taken = {network.name for network in (student, *teachers, *others)}
        others.append(_other(given, taken, cfg.get('data_preprocessor'), device))
    return Networks(student, teachers, others, parts_of(distiller))


def _other(
    given: Sequence[str], taken: set[str], preprocessor: Any, device: str | torch.device
) -> Network:
    if len(given) not in (2, 3):
        raise ValueError(
            f'--against: expected CONFIG CHECKPOINT and perhaps a NAME, got {" ".join(given) or "nothing"}'
        )
    config, checkpoint, *names = given
    name = names[0] if names else Path(config.rpartition('::')[2]).stem
    if name in taken:
        raise ValueError(
            f'--against: expected a name of its own, got {name!r} again: CONFIG CHECKPOINT NAME'
        )
    model = build_network(
        network_config(config, '--against', data_preprocessor=preprocessor), '--against'
    )
    with config_key('--against'):
        load_student(model, checkpoint)
    return _frozen(name, model, host_of(model), device)


def _frozen(name: str, model: nn.Module, host: Host, device: str | torch.device) -> Network:
    return Network(name, model.to(device).requires_grad_(False).eval(), host)
