"""Requests to a network: taps, class scores and boxes, checked before it runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.layout import Layout
from mmkd_plugin.adapters.lookup import get_adapter
from mmkd_plugin.adapters.taps import Tap
from mmkd_plugin.errors import ConfigError

#: Stands for the tap of a network's embedding, which is found before training; no module has
#: this name.
EMBEDDING = '<embedding>'
Pick = Callable[[nn.Module, Any], list[Tensor]]
Points = Mapping[str, tuple[Tap, Pick]]
#: Marks recorded class scores, so that a method may tap the same module.
SCORES = 'scores of '
BOXES = 'boxes of '


class TapRequests:
    """The requests of all methods to one network; :class:`TappedModel` runs it for them.

    Args:
        model: The network.
        key: The config key of the network, for messages.
    """

    def __init__(self, model: nn.Module, key: str) -> None:
        self.model = model
        self.key = key
        self.adapter: Adapter = get_adapter(model)
        self.needs_scores = False
        self._recorded: Points = {}
        self._observed: Points = {}
        self._scores: dict[str, tuple[Tap, Pick]] = {}
        #: Paths of all modules that are read, for taps, class scores or boxes.
        self.tapped_paths: frozenset[str] = frozenset()
        #: Names of all readings: a head can be read for class scores, for boxes, and as a tap.
        self.readings: frozenset[str] = frozenset()
        #: Shapes of the tapped tensors in the probe, by tap.
        self.probed: dict[str, tuple[int, ...]] = {}
        #: The tap that :data:`EMBEDDING` stands for.
        self.embedding: str | None = None
        #: Measured layouts by tap; None where the layout is unknown.
        self.layouts: dict[str, Layout | None] = {}

    @property
    def observed_taps(self) -> frozenset[str]:
        """Taps of :meth:`observe`, without those of the class scores."""
        return frozenset(self._observed)

    @property
    def recorded_paths(self) -> frozenset[str]:
        """Paths of the modules that are tapped in :meth:`recording`."""
        return frozenset(tap.path for tap, _ in self._recorded.values())

    @property
    def needs_regions(self) -> bool:
        """Whether a tap runs on regions that the student's training forward samples."""
        points = [*self._recorded.values(), *self._observed.values()]
        return any(self.adapter.needs_regions(tap.path) for tap, _ in points)

    def parse(self, taps: Sequence[str], key: str) -> dict[str, Tap]:
        """Parse taps and check that the model has their modules.

        Raises:
            ConfigError: If one is not a tap, or names no module; the error is about ``key``.
        """
        parsed = {
            tap: Tap.parse(self.embedding if tap == EMBEDDING and self.embedding else tap, key)
            for tap in taps
        }
        for tap in parsed.values():
            tap.require_module(self.model, self.key, key)
        return parsed

    def request(
        self,
        taps: Sequence[str],
        scores: bool = False,
        observed: Sequence[str] | None = None,
        boxes: bool = False,
    ) -> None:
        """Set what is recorded from now on.

        Args:
            taps: Taps of :meth:`recording`.
            scores: Whether class scores are read.
            observed: Taps of :meth:`observe`; ``taps`` by default.
            boxes: Whether the boxes at the locations of the class scores are read as well.

        Raises:
            ConfigError: If a tap names no module, or if the class scores or boxes of the model are
                unknown.
        """
        scores = scores or boxes
        if self.adapter.no_taps and (taps or observed or scores):
            raise ConfigError(
                self.key,
                self.adapter.no_taps,
                'Distil one detector by its own config.',
                found=type(self.model).__name__,
            )
        if scores and not self.adapter.scores_known:
            raise ConfigError(
                self.key,
                f'class scores of {type(self.model).__name__} are not supported: '
                f'{self.adapter.no_scores}',
                'Use methods on taps alone, or register a score reader for the head.',
            )
        if boxes and not self.adapter.box_taps:
            raise ConfigError(
                self.key,
                f'boxes of {type(self.model).__name__} cannot be compared: only one-stage '
                'detectors output boxes at fixed locations',
                'Use methods on class scores or taps.',
            )
        self.needs_scores = scores
        self._recorded = self._points(taps)
        self._observed = self._points(taps if observed is None else observed)
        self._scores = self._heads(SCORES, self.adapter.score_taps if scores else {})
        self._scores |= self._heads(BOXES, self.adapter.box_taps if boxes else {})
        points = {**self._recorded, **self._observed, **self._scores}
        self.tapped_paths = frozenset(tap.path for tap, _ in points.values())
        self.readings = frozenset(points)

    def _heads(self, mark: str, picks: Mapping[str, Pick]) -> dict[str, tuple[Tap, Pick]]:
        return {mark + tap: (Tap.parse(tap, self.key), pick) for tap, pick in picks.items()}

    def _points(self, taps: Sequence[str]) -> Points:
        parsed = self.parse(taps, self.key)
        return {name: (tap, tap.pick) for name, tap in parsed.items()}
