"""The detectors whose boxes are compared: all that a config has, and others to stand beside them."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmkd_plugin.adapters import host_of
from mmkd_plugin.adapters.teacher import build_teacher
from mmkd_plugin.errors import config_key
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.checkpoint import load_file, trained_networks
from mmkd_plugin.loading.peer_entries import peer_entries
from mmkd_plugin.loading.student import as_student, is_distiller, is_mutual, load_student


@dataclass(frozen=True)
class Detector:
    """A trained detector under the name that pictures give it.

    Args:
        name: Over its panel.
        model: Frozen, in eval mode.
        classes: What its checkpoint calls its classes, if it says it.
        class_map: For each class of the data set its own index of it, where a config says that they differ.
    """

    name: str
    model: nn.Module
    classes: tuple[str, ...] | None = None
    class_map: Sequence[int] | None = None

    @torch.no_grad()
    def predict(self, raw: Any) -> Sequence[Any]:
        """Data samples with ``pred_instances`` of a raw batch, which its own preprocessor prepares."""
        samples: Sequence[Any] = self.model.test_step(copy.deepcopy(raw))  # type: ignore[operator]  # it writes into them
        return (
            samples
            if self.class_map is None
            else host_of(self.model).in_classes(samples, self.class_map)
        )

    def require_classes(self, expected: Sequence[str] | None) -> None:
        """Refuse a detector of other classes than the data set's, or in another order.

        Raises:
            ValueError: If they differ, and no ``class_map`` says how.
        """
        if expected is None or self.class_map is not None:
            return
        count = getattr(host_of(self.model), 'num_classes', None)
        found = None if self.classes is None else list(self.classes)
        if found not in (None, list(expected)) or count not in (None, len(expected)):
            raise ValueError(
                f'{self.name}: expected a detector of the {len(expected)} classes of the data set, {_few(expected)}, got '
                f'one of {count or len(found or ())}{"" if found is None else f", {_few(found)}"}; --without {self.name} leaves a '
                "config's own network out"
            )


def load_detectors(
    cfg: Config,
    checkpoint: str,
    against: Sequence[Sequence[str]] = (),
    name: str | None = None,
    without: Sequence[str] = (),
    device: str | torch.device = 'cpu',
) -> list[Detector]:
    """The others, then the student, then its teachers, whose weights come from their own files.

    Args:
        cfg: A distillation config, one of detectors that learn from each other (all of them are taken), or a plain detector's.
        checkpoint: Of its run, or an exported student.
        against: ``(config, checkpoint)`` or ``(config, checkpoint, name)`` each: the student of a distillation config, or the
            detector of any other one.
        name: Of the student; default ``'student'``, or a plain config's own name.
        without: Names of networks of ``cfg`` to leave out; their files need not be there.
        device: Where they run.

    Raises:
        ValueError: If a config is none of a detector, a checkpoint does not fit, or two networks share a name.
    """
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA
        raise ValueError(
            f'--device: expected one that is there, got {device!r} ({error})'
        ) from error
    left_out = set(without)
    given = [_other(one, cfg) for one in against]
    given += (
        _peers(cfg, checkpoint, left_out)
        if is_mutual(cfg)
        else _student(cfg, checkpoint, name, left_out)
    )
    if left_out:
        raise ValueError(f'--without: expected networks of the config, got {sorted(left_out)}')
    if not given:
        raise ValueError('--without: expected at least one network to be left, got all of them')
    for index, one in enumerate(given):
        if one.name in {earlier.name for earlier in given[:index]}:
            raise ValueError(
                f'--against: expected a name of its own for each network, got {one.name!r} twice: CONFIG CHECKPOINT NAME, or '
                '--name for the student'
            )
        if host_of(one.model).task != 'detection':
            raise ValueError(f'{one.name}: expected a detector, got {type(one.model).__name__}')
        one.model.to(place).requires_grad_(False).eval()
    return given


def _student(
    cfg: Config, checkpoint: str, name: str | None, left_out: set[str]
) -> Iterator[Detector]:
    """With its teachers, where there are any."""
    name = name or ('student' if is_distiller(cfg) else Path(cfg.filename or 'network').stem)
    network = network_config(cfg.model, 'model', data_preprocessor=cfg.get('data_preprocessor'))
    contract = copy.deepcopy(
        network.get('data_preprocessor')
    )  # frameworks write into what they build from
    if not _is_left_out(name, left_out):
        model = build_network(network, 'model')
        yield Detector(name, model, load_student(model, checkpoint))
    for index, entry in enumerate(cfg.model.get('teachers') or [] if is_distiller(cfg) else []):
        if not _is_left_out(str(entry.get('name', f'teacher{index}')), left_out):
            teacher = build_teacher(entry, contract, f'teachers[{index}]', f'teacher{index}')
            yield Detector(teacher.name, teacher.model, teacher.classes, teacher.class_map.indices)


def _peers(cfg: Config, checkpoint: str, left_out: set[str]) -> Iterator[Detector]:
    if not trained_networks(load_file(checkpoint, 'checkpoint').content):
        raise ValueError(
            f'checkpoint: expected that of a run, with all peers, got one of a single network, {checkpoint}'
        )
    for entry in peer_entries(cfg.model.get('peers')):
        if not _is_left_out(entry['name'], left_out):
            alone = copy.deepcopy(cfg)
            as_student(alone, entry['name'])
            model = build_network(alone.model, entry['name'])
            yield Detector(entry['name'], model, load_student(model, checkpoint, entry['name']))


def _other(given: Sequence[str], cfg: Config) -> Detector:
    if len(given) not in (2, 3):
        raise ValueError(
            f'--against: expected CONFIG CHECKPOINT and perhaps a NAME, got {" ".join(given) or "nothing"}'
        )
    config, checkpoint, *names = given
    network = network_config(config, '--against', data_preprocessor=cfg.get('data_preprocessor'))
    model = build_network(network, '--against')
    with config_key('--against'):
        classes = load_student(model, checkpoint)
    return Detector(names[0] if names else Path(config.rpartition('::')[2]).stem, model, classes)


def _is_left_out(name: str, left_out: set[str]) -> bool:
    found = name in left_out
    left_out.discard(name)
    return found


def _few(names: Sequence[str], most: int = 4) -> str:
    return ', '.join(names[:most]) + (', …' if len(names) > most else '')
