"""Feature levels of a network: the maps at which its stages end, and those of its neck."""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from mmkd_plugin.adapters.dry_run import REFUSALS, Shape
from mmkd_plugin.adapters.inspect_taps import TapPoint, points_at
from mmkd_plugin.adapters.probe import dry_run, find_shape
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.errors import ConfigError

#: Words that stand for taps in a config.
WORDS = ('stages', 'neck', 'last')
#: Most stages of a backbone, and those of one whose blocks have one resolution, such as a ViT.
_PARTS = 4
#: Blocks of a backbone: a child, or an element of a list of children. Some also return a size.
_STAGE = re.compile(r'^backbone\.\w+(\.\d+)?(\[0\])?$')
#: Side of blank images for detectors: in smaller ones several levels have one cell.
_SIDE = 256


@dataclass(frozen=True)
class Level:
    """A map (N, C, H, W) of a network.

    Args:
        tap: Its tap.
        shape: (C, H, W) for blank images.
        stride: Height of the images over its height.
    """

    tap: str
    shape: tuple[int, int, int]
    stride: float

    def __str__(self) -> str:
        return f'{self.tap!r} {self.shape}'


class LevelFinder:
    """Find the levels of a network by one run on blank images.

    Args:
        network: The network; its requests do not change.
        probe_shape: (channels, height, width) of an input; the first usual one that fits by
            default.
    """

    def __init__(self, network: TappedModel, probe_shape: Sequence[int] | None = None) -> None:
        self.network = network
        self._stated = probe_shape

    @property
    def key(self) -> str:
        """Config key of the network."""
        return self.network.key

    @property
    def is_detector(self) -> bool:
        """Whether levels correspond by stride."""
        return self.network.adapter.task == 'detection'

    def run(self) -> None:
        """Run the network now, not when the first levels are looked for.

        Raises:
            ConfigError: If it runs on no usual input.
        """
        _ = self._run

    def levels(self, word: str, trained: bool = False) -> list[Level]:
        """Return the levels for a word of :data:`WORDS`, from the shallowest to the deepest.

        Args:
            word: The word.
            trained: Whether levels are left out behind which nothing is trained, such as those of
                ``frozen_stages``.

        - ``'stages'``: the last map of each resolution of the backbone, of at most the last four.
          A backbone of one resolution is cut into four parts of equally many blocks.
        - ``'neck'``: all maps that the neck returns.
        - ``'last'``: the last of the stages.

        Raises:
            ConfigError: If the network has no such map; its key is '', that of the word.
        """
        found = self._neck if word == 'neck' else self._stages
        if trained:
            found = [level for level in found if level.tap in self._trained]
        if not found:
            part = 'neck with maps' if word == 'neck' else 'backbone whose stages return maps'
            raise ConfigError(
                '',
                f'{word!r} finds no tap: {self.key} has no {part}',
                'Name the taps. tools/inspect_taps.py lists them.',
                found=type(self.network.model).__name__,
            )
        return found[-1:] if word == 'last' else found

    @cached_property
    def _model(self) -> nn.Module:
        """The network's module; one whose outputs are stored is built, and then has an adapter."""
        load = getattr(self.network, 'load', None)
        return self.network.model if load is None else load()

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self._model.named_modules())

    @property
    def _points(self) -> list[TapPoint]:
        return self._run[1]

    @property
    def _shape(self) -> Shape:
        return self._run[0]

    @cached_property
    def _run(self) -> tuple[Shape, list[TapPoint]]:
        """A shape (C, H, W) that the network accepts, and its taps for that shape."""
        large = 3, _SIDE, _SIDE
        if self._stated is None and self.is_detector:
            with suppress(*REFUSALS):  # most detectors accept it: that spares a run
                return large, points_at(self._bare, large)
            with suppress(ConfigError):
                shape = find_shape(self.network, large)
                return shape, points_at(self._bare, shape)
        shape = find_shape(self.network, self._stated)
        return shape, points_at(self._bare, shape)

    @property
    def _bare(self) -> TappedModel:
        """The network without requests."""
        bare = TappedModel(self._model, self.key)
        bare.adapter = self.network.adapter
        return bare

    @cached_property
    def _trained(self) -> set[str]:
        """Taps whose module, or one that ran before it, has a parameter that is trained."""
        found: set[str] = set()
        for point in self._points:  # in the order in which modules end
            module = self._modules[point.tap.partition('[')[0]]
            if found or any(one.requires_grad for one in module.parameters()):
                found.add(point.tap)
        return found

    @cached_property
    def _neck(self) -> list[Level]:
        taps = [
            one.tap
            for one in self._points
            if re.fullmatch(r'neck(\[\d+\])?', one.tap) and not one.obstacle
        ]
        return self._maps(taps)

    @cached_property
    def _stages(self) -> list[Level]:
        taps = [
            one.tap
            for one in self._points
            if _STAGE.match(one.tap)
            and not one.obstacle
            and _is_block(self._modules[one.tap.partition('[')[0]])
        ]
        levels = self._maps(taps)
        ends: dict[tuple[int, int], Level] = {}
        for level in levels:
            size = level.shape[1:]
            before = ends.get(size)
            # A container returns what its last block returns: the shorter path is the stage.
            inside = before is not None and level.tap.startswith(f'{before.tap}.')
            outer = before is not None and before.tap.startswith(f'{level.tap}.')
            if before is None or outer or not inside:
                ends[size] = level
        found = list(ends.values())
        blocks = [one for one in levels if one.tap.count('.') == 2]
        if len(found) == 1 and len(blocks) >= _PARTS:
            ends_of_parts = [math.ceil(len(blocks) * part / _PARTS) - 1 for part in range(1, 5)]
            return [blocks[index] for index in ends_of_parts]
        return found[-_PARTS:]

    def _maps(self, taps: Sequence[str]) -> list[Level]:
        """Return those of the taps that record maps, also maps of tokens."""
        if not taps:
            return []
        bare = self._bare
        bare.request(taps)
        features = dry_run(bare, self._shape, scores=False).features
        return [
            Level(
                tap,
                (features[tap].shape[1], features[tap].shape[2], features[tap].shape[3]),
                float(2 ** round(math.log2(self._shape[1] / features[tap].shape[2]))),
            )
            for tap in taps
            if tap in features and features[tap].ndim == 4
        ]


def _is_block(module: nn.Module) -> bool:
    """Whether a module has parts: stems and single layers end no stage."""
    return any(True for _ in module.children())


def paired_levels(
    student: LevelFinder, teacher: LevelFinder, word: str
) -> list[tuple[Level, Level]]:
    """Pair the levels of two networks: those of detectors by stride, others from the deepest.

    Args:
        student: Finder of the student.
        teacher: Finder of a teacher.
        word: One of :data:`WORDS`.

    Raises:
        ConfigError: If a network has no such level, or if no two levels correspond.
    """
    own, others = student.levels(word, trained=True), teacher.levels(word)
    if not student.is_detector or word == 'last':
        count = min(len(own), len(others))
        return list(zip(own[-count:], others[-count:], strict=True))
    by_stride = {level.stride: level for level in others}
    pairs = [(level, by_stride[level.stride]) for level in own if level.stride in by_stride]
    if not pairs:
        strides = [f'{level.tap!r}: {level.stride:g}' for level in others]
        raise ConfigError(
            '',
            f'{word!r} finds no pair: {teacher.key} has no level of the strides of {student.key}, '
            f'{", ".join(f"{level.stride:g}" for level in own)}',
            'Name the taps of the pairs.',
            found=', '.join(strides),
        )
    return pairs
