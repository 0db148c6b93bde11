"""Load the networks that are compared: those of a config, and others."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor

from mmkd_plugin.adapters import build_teacher
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.errors import ConfigError, config_key
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.checkpoint import load_file
from mmkd_plugin.loading.export import load_student, trained_networks
from mmkd_plugin.loading.keys import state_of
from mmkd_plugin.loading.peer_entries import peer_entries
from mmkd_plugin.loading.run_model import kind_of


@dataclass(frozen=True)
class Networks:
    """Networks that are compared.

    Args:
        own: The trained networks of a config: its student, its peers, or its only network.
        teachers: The student's teachers.
        others: Networks of other configs.
    """

    own: Sequence[LoadedNetwork]
    teachers: Sequence[LoadedNetwork]
    others: Sequence[LoadedNetwork]

    @property
    def all(self) -> list[LoadedNetwork]:
        """Teachers first, then the others, the config's own last."""
        return [*self.teachers, *self.others, *self.own]


def load_networks(
    cfg: Config,
    checkpoint: str,
    against: Sequence[Sequence[str]] = (),
    *,
    name: str | None = None,
    without: Sequence[str] = (),
    device: str | torch.device = 'cpu',
) -> Networks:
    """Load the networks of a config, and others beside them.

    Args:
        cfg: A distillation config, one of mutual learning (all peers are loaded), or any other.
        checkpoint: The checkpoint of its run, or an exported student. Teachers are loaded from
            their own files.
        against: ``(config, checkpoint)`` or ``(config, checkpoint, name)`` each: the student of a
            distillation config, or the network of any other one.
        name: Name of the config's network; ``'student'``, or the name of a plain config's file, by
            default.
        without: Names of networks of ``cfg`` to leave out; their files need not exist.
        device: The device of all networks.

    Raises:
        ConfigError: If a config or a checkpoint is wrong, or two networks share a name.
    """
    place = _existing_device(device)
    others = [_other(one, cfg.get('data_preprocessor')) for one in against]
    mutual = kind_of(cfg.get('model')) == 'mutual'
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        configs, entries = _own_configs(cfg, name), _teacher_entries(cfg)
        for one in without:
            if one not in {*configs, *(teacher for teacher, _ in entries)}:
                raise ConfigError('--without', 'must name networks of the config', found=one)
        if mutual:
            require_run(checkpoint, 'must be that of a run, with all peers')
        preprocessing = _preprocessing(next(iter(configs.values())))
        own = [
            _trained(one, config, checkpoint, one if mutual else None)
            for one, config in configs.items()
            if one not in without
        ]
        teachers = [
            _teacher(index, entry, preprocessing)
            for index, (teacher, entry) in enumerate(entries)
            if teacher not in without
        ]
    found = Networks(own, teachers, others)
    if not found.all:
        raise ConfigError('--without', 'must leave at least one network', found=list(without))
    _require_different_names(found)
    for network in found.all:
        network.model.to(place)
    return found


def _own_configs(cfg: Config, name: str | None) -> dict[str, ConfigDict]:
    """Return the config of each network that the config trains, by name."""
    model = cfg.get('model')
    if kind_of(model) == 'mutual':
        names = [entry['name'] for entry in peer_entries(model.get('peers'))]
        models = {one: {**model, 'predict': one} for one in names}
    else:
        plain = Path(cfg.filename or 'network').stem
        models = {name or ('student' if kind_of(model) == 'student' else plain): model}
    default = cfg.get('data_preprocessor')
    return {
        one: network_config(model, 'model', data_preprocessor=default)
        for one, model in models.items()
    }


def _teacher_entries(cfg: Config) -> list[tuple[str, Any]]:
    """Return the names of the config's teachers, each with its dict."""
    if kind_of(cfg.get('model')) != 'student':
        return []
    entries = enumerate(cfg.model.get('teachers') or [])
    return [(str(entry.get('name', f'teacher{index}')), entry) for index, entry in entries]


def _preprocessing(student: ConfigDict) -> Any:
    """Return the preprocessing of the run, which teachers without their own have."""
    preprocessing = copy.deepcopy(student.get('data_preprocessor'))  # building writes into it
    if preprocessing is not None and '_scope_' in student:
        preprocessing.setdefault('_scope_', student['_scope_'])  # teachers may have another
    return preprocessing


def _trained(name: str, config: ConfigDict, checkpoint: str, peer: str | None) -> LoadedNetwork:
    model = build_network(config, 'model')
    return LoadedNetwork(name, model, load_student(model, checkpoint, peer))


def _teacher(index: int, entry: Any, preprocessing: Any) -> LoadedNetwork:
    teacher = build_teacher(entry, preprocessing, f'teachers[{index}]', f'teacher{index}')
    if teacher.view is not None:
        raise ConfigError(
            f'{teacher.key}.view',
            "is not supported here: the teacher would be analysed on the student's images",
            'Leave it out of the analysed config, and give images that the teacher accepts.',
            found=teacher.view.size or 'a pipeline',
        )
    indices = teacher.class_map.indices
    return LoadedNetwork(teacher.name, teacher.model, teacher.classes, indices, teacher.sha256)


def _other(given: Sequence[str], preprocessing: Any) -> LoadedNetwork:
    if len(given) not in (2, 3):
        problem = 'must be CONFIG CHECKPOINT and perhaps a NAME'
        raise ConfigError('--against', problem, found=' '.join(given))
    config, checkpoint, *names = given
    network = network_config(config, '--against', data_preprocessor=preprocessing)
    model = build_network(network, '--against')
    with config_key('--against'):
        classes = load_student(model, checkpoint)
    return LoadedNetwork(
        names[0] if names else Path(config.rpartition('::')[2]).stem, model, classes
    )


def require_run(checkpoint: str, problem: str) -> Mapping[str, Tensor]:
    """Return the state dict of a run's checkpoint; refuse that of a single network."""
    content = load_file(checkpoint, 'checkpoint').content
    if not trained_networks(content):
        raise ConfigError('checkpoint', problem, found=checkpoint)
    state: Mapping[str, Tensor] = state_of(content)
    return state


def _require_different_names(found: Networks) -> None:
    names = {network.name for network in found.own}
    for key, networks, fix in (
        ('teachers', found.teachers, 'Give the teacher another name.'),
        ('--against', found.others, 'Add another one: --against CONFIG CHECKPOINT NAME.'),
    ):
        for network in networks:
            if network.name in names:
                problem = 'must have a name that no other network has'
                raise ConfigError(key, problem, fix, found=network.name)
            names.add(network.name)


def _existing_device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # the latter if torch has no CUDA
        first = str(error).splitlines()[0]
        raise ConfigError('--device', f'is not available: {first}', found=device) from error
