"""The networks of a distillation that is planned: built once, for their taps and their faults."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.adapters.dry_run import first_line
from mmkd_plugin.adapters.levels import LevelFinder
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.errors import ConfigError, config_key
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.models.methods import Method
from mmkd_plugin.recipes.table import Recipe
from mmkd_plugin.recipes.text import Code
from mmkd_plugin.registry import build_part


class Networks:
    """A student with its teachers or peers.

    Args:
        student: Path of the student's config.
        teachers: Entries of the teachers.
        peers: Paths of the peers' configs.
    """

    def __init__(
        self, student: str, teachers: Sequence[Mapping[str, Any]], peers: Sequence[str]
    ) -> None:
        self.teachers = teachers
        self.peers = peers
        self.student = student

    @cached_property
    def own(self) -> LevelFinder:
        """Finder of levels of the student."""
        return _finder('student', self.student)

    @cached_property
    def others(self) -> list[LevelFinder]:
        """Finders of levels of the teachers or peers."""
        found = [
            _finder(f'teachers[{index}]', one['model'], one.get('cfg_options'))
            for index, one in enumerate(self.teachers)
        ]
        return found + [_finder(f'peers[{index}]', one) for index, one in enumerate(self.peers)]

    @property
    def is_detector(self) -> bool:
        """Whether the student is a detector."""
        return self.own.is_detector

    def with_taps(
        self, name: str, recipe: Recipe, config: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Return the config of a method with paths in place of words, and the choice in sentences.

        Between peers the words stay: each network has taps of its own.

        Args:
            name: Name of the method.
            recipe: Its recipe.
            config: Its config, whose key ``recipe.taps`` is a word.

        Raises:
            ConfigError: If an argument is wrong, or a network has no such levels.
        """
        method: Any = build_part(config, Method, f'methods.{name}')
        with config_key(f'methods.{name}'):
            chosen = method.choose_taps(self.own, self.others)
        found = dict(config)
        if recipe.taps == 'pairs' and not recipe.mutual:
            found['pairs'] = [
                dict(student=pair.student, teacher=pair.teacher, index=pair.index)
                if len(self.others) > 1
                else dict(student=pair.student, teacher=pair.teacher)
                for pair in method.pairs
            ]
        elif not recipe.mutual and method.hints is not None:
            found['student_groups'] = list(method.hints.student_groups)
            found['teacher_taps'] = list(method.hints.teacher_taps)
        return found, chosen

    def model(self, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model of the distillation, with the student's as ``_base_.model``.

        Args:
            name: Name of the method.
            config: Its config.
        """
        if self.peers:
            peers = [dict(name=name_of(self.student), model=Code('_base_.model'))]
            peers += [dict(name=name_of(one), model=one) for one in self.peers]
            names = [peer['name'] for peer in peers]
            for index, peer in enumerate(peers):
                if names.count(peer['name']) > 1:
                    peer['name'] = f'{peer["name"]}_{index}'
            kind: dict[str, Any] = dict(type='mmkd_plugin.MutualDistiller', peers=peers)
        else:
            kind = dict(
                type='mmkd_plugin.Distiller',
                student=Code('_base_.model'),
                teachers=[dict(one) for one in self.teachers],
            )
        return dict(_delete_=True, **kind, methods={name: dict(config)})

    def require_builds(self, text: str) -> None:
        """Build the model of a config, as the Runner will.

        Raises:
            ConfigError: If it cannot be built.
        """
        config = Config.fromstring(text, '.py')
        model = config.model
        preprocessor = config.get('data_preprocessor')
        if preprocessor is not None:
            model.setdefault('data_preprocessor', preprocessor)
        for teacher in model.get('teachers', [model.get('teacher')]):
            if teacher is not None:  # its faster form is no check, and takes several runs to find
                teacher.setdefault('fast', False)
        try:
            ROOT_MODELS.build(model)
        except TypeError as error:  # of the signature of a model
            raise ConfigError('cfg.model', f'cannot be built: {first_line(error)}') from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread while the body runs.

    The trial images are small: several threads would mostly wait for each other, for seconds where
    other programs run.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _finder(key: str, model: Any, options: Mapping[str, Any] | None = None) -> LevelFinder:
    """Return a finder of the levels of a network: of a detector, those of a copy without values.

    Levels are shapes, and on the meta device nothing is computed. That spares seconds where images
    are large. A network that reads values, as two-stage detectors do for proposals, runs as it is.
    """
    config = network_config(model, key, options)
    with torch.random.fork_rng(devices=[]):
        network = build_network(config, key)
    plain = LevelFinder(TappedModel(network, key))
    if plain.is_detector and not plain.network.adapter.scores_need_training:
        with suppress(Exception), torch.device('meta'):
            shapes = LevelFinder(TappedModel(deepcopy(network).to('meta'), key))
            shapes.run()
            return shapes
    return plain


def name_of(path: str) -> str:
    """Return a name for the network of a config: its first words.

    Example:
        >>> name_of('mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'), name_of('resnet50_8xb16_cifar10.py')
        ('gfl_r101', 'resnet50')
    """
    first, *rest = Path(path).stem.replace('.', '_').split('_')
    depth = rest and re.fullmatch(r'(r|x|swin|pvt)[\w-]*', rest[0])
    return f'{first}_{rest[0]}' if depth else first
