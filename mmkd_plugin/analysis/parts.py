"""The two parts into which IE-KD splits a student's map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from mmkd_plugin.analysis.loaded import Networks, load_networks, require_run
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.run_model import kind_of
from mmkd_plugin.loading.run_record import read_record
from mmkd_plugin.models.methods import IEKD, Method
from mmkd_plugin.registry import build_part, class_of

#: The paper's names of the part that inherits and of the part that explores.
NAMES = ('f_inh', 'f_exp')
#: Begins the name of a part's channels in a network that was not split.
UNSPLIT = 'channels of '


@dataclass(frozen=True, eq=False)
class Part:
    """Some channels of the student's map at a tap.

    Args:
        name: Its name in pictures.
        tap: The tap of the student.
        index: Indices of the channels, (C_part,).
        channels: Number of channels of the whole map.
        teacher: Index of the teacher of the pair, and the tap there.

    Example:
        >>> part = Part('f_inh', 'backbone', torch.tensor([0, 2]), 3, (0, 'backbone'))
        >>> part.of(torch.tensor([[5, 6, 7]])).tolist(), part.mask(torch.zeros(1, 3)).tolist()
        ([[5, 7]], [[1.0, 0.0, 1.0]])
    """

    name: str
    tap: str
    index: Tensor
    channels: int
    teacher: tuple[int, str]

    def of(self, values: Tensor) -> Tensor:
        """Return the part (N, C_part, H, W) of a map (N, C, H, W)."""
        return values.index_select(1, self.index.to(values.device))

    def mask(self, values: Tensor) -> Tensor:
        """Return 1 in these channels of a map (N, C, H, W), and 0 in the others."""
        return torch.zeros_like(values).index_fill_(1, self.index.to(values.device), 1.0)


@dataclass(frozen=True)
class DistilledNetworks(Networks):
    """A student with its teachers, others, and the parts into which IE-KD split its maps."""

    parts: Sequence[Part] = ()

    @property
    def student(self) -> LoadedNetwork:
        """The trained network of the config."""
        [student] = self.own
        return student


def load_distilled(
    cfg: Config,
    checkpoint: str,
    against: Sequence[Sequence[str]] = (),
    device: str | torch.device = 'cpu',
) -> DistilledNetworks:
    """Load a student with its parts, its teachers, and others.

    Args:
        cfg: The config of a :class:`~mmkd_plugin.models.distillers.Distiller`.
        checkpoint: The checkpoint of its run. An exported student has no record of its channel
            split.
        against: See :func:`~mmkd_plugin.analysis.loaded.load_networks`.
        device: The device of all networks.

    Raises:
        ConfigError: If the config trains something else, a checkpoint does not fit, or the file of
            a teacher is not the one of the run.
    """
    if kind_of(cfg.get('model')) != 'student':
        raise ConfigError(
            'config',
            'must be a distillation config, with a model of type mmkd_plugin.Distiller',
            'To compare another network with a student, add --against CONFIG CHECKPOINT.',
            found=(cfg.get('model') or {}).get('type'),
        )
    networks = load_networks(cfg, checkpoint, against, device=device)
    problem = 'must be that of a run: an exported student has no record of its channel split'
    state = require_run(checkpoint, problem)
    _require_same_teachers(networks.teachers, state)
    parts = parts_of(cfg.model.get('methods'), state)
    return DistilledNetworks(networks.own, networks.teachers, networks.others, parts)


def parts_of(methods: Any, state: Mapping[str, Tensor]) -> list[Part]:
    """Return both parts of every pair of every IE-KD method; none without IE-KD.

    Names contain the tap if there are several pairs.

    Args:
        methods: The config key ``methods`` of a distillation run.
        state: The state dict in the run's checkpoint, which has the split of each pair.

    Raises:
        ConfigError: If a method's config is wrong, or the checkpoint lacks its split.
    """
    found = []
    for name, config in dict(methods or {}).items():
        key = f'methods.{name}'
        if not issubclass(class_of(config, Method, key), IEKD):
            continue
        method = build_part(config, IEKD, key)
        for number, pair in enumerate(method.pairs if method.active else ()):
            both = [
                _index(state, f'{key}.splits.{number}.{buffer}')
                for buffer in ('inherit_index', 'explore_index')
            ]
            channels, teacher = sum(map(len, both)), (pair.index, pair.teacher)
            found += [
                Part(part, pair.student, index, channels, teacher)
                for part, index in zip(NAMES, both, strict=True)
            ]
    return _named(found)


def _require_same_teachers(teachers: Sequence[LoadedNetwork], state: Mapping[str, Tensor]) -> None:
    """Refuse other files of teachers than the run had; runs without a record pass."""
    recorded = (read_record(state) or {}).get('teachers') or []
    hashes = {one['name']: one['sha256'] for one in recorded}
    for index, teacher in enumerate(teachers):
        if hashes and hashes.get(teacher.name) != teacher.sha256:
            known = ', '.join(f'{name} {sha256}' for name, sha256 in hashes.items())
            raise ConfigError(
                f'teachers[{index}].checkpoint',
                f'{teacher.name} must have the file with which the run began; SHA-256: {known}',
                'Put the file of the run back.',
                found=teacher.sha256,
            )


def _index(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ConfigError(
            'checkpoint',
            'has no split of the channels of this pair',
            'Give the checkpoint of a run of this config.',
            found=name,
        )
    return state[name]


def _named(parts: Sequence[Part]) -> list[Part]:
    if len(parts) <= len(NAMES):
        return list(parts)
    names = [f'{part.name} of {part.tap.removeprefix("backbone.")}' for part in parts]
    numbers = [names[:place].count(name) + 1 for place, name in enumerate(names)]
    return [
        replace(part, name=f'{name} ({number})' if names.count(name) > 1 else name)
        for part, name, number in zip(parts, names, numbers, strict=True)
    ]
