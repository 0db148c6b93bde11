"""The last layers of a frozen dense head, run on the features of another network."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.dense_detector import DenseDetectorAdapter, rows_of_scores, score_channels
from mmkd_plugin.adapters.dry_run import Shape
from mmkd_plugin.adapters.frozen_network import FrozenNetwork
from mmkd_plugin.adapters.head_output import rows_of_boxes
from mmkd_plugin.adapters.head_towers import TOWERS, final_activation, find_towers
from mmkd_plugin.adapters.probe import dry_run
from mmkd_plugin.adapters.swaps import weights_on
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import ClassScores, NetworkOutput

#: Largest difference from the head itself, of the largest value.
_TOLERANCE = 1e-4


class HeadContinuation:
    """The layers of a teacher's head behind a convolution of its towers.

    It is deliberately no ``nn.Module``, as a teacher is none. It runs the head's own forward with
    shorter towers: predictions, scales and the unit of the boxes are those of the head. Gradients
    pass to the features; the layers are those of the frozen teacher.

    Args:
        teacher: The teacher.
        shape: (channels, height, width) that it accepts.
        remaining: Number of convolutions of its towers that still run.
        before_activation: Whether the features are those before the activation of the convolution
            at the cut.
        reads: Those of :data:`TOWERS` whose features are given. The other tower runs on the same
            features, and its predictions mean nothing.
        boxes: Whether boxes are read.

    Raises:
        ConfigError: If the head has no such towers, or outputs something else than it does itself
            on its own features.
    """

    def __init__(
        self,
        teacher: FrozenNetwork,
        shape: Shape,
        remaining: int,
        before_activation: bool = False,
        reads: Sequence[str] = TOWERS,
        boxes: bool = True,
    ) -> None:
        self._teacher = teacher
        towers = find_towers(teacher)
        head: Any = towers.head
        cut = towers.convs - remaining
        self._reads, self._boxes = tuple(reads), boxes
        self._feeds = {name: _Feed() for name in TOWERS}
        self._head: Any = copy.copy(head)  # it shares parameters, buffers and layers
        self._head._modules = dict(head._modules)
        for name, feed in self._feeds.items():
            convs = list(getattr(head, name))
            activation = final_activation(convs[cut - 1]) if before_activation else None
            if activation is not None:
                convs[cut - 1] = _kept(activation)
            first = cut if activation is None else cut - 1
            self._head._modules[name] = nn.ModuleList([feed, *convs[first:]])
        self._head.training = True  # of this module alone: some heads output less in eval mode
        self._width = score_channels(head)
        taps = {name: towers.taps(name, cut, before_activation) for name in self._reads}
        own = TappedModel(teacher.model, teacher.key)
        own.request([tap for of_tower in taps.values() for tap in of_tower], True, boxes=boxes)
        found = dry_run(own, shape)
        features = {name: [found.feature(tap) for tap in taps[name]] for name in taps}
        #: Channels of the features, by tower.
        self.channels = {name: maps[0].shape[1] for name, maps in features.items()}
        self._require_same(features, found, type(head).__name__)

    def __deepcopy__(self, memo: dict[int, Any]) -> 'HeadContinuation':
        return self  # EMA copies the method: a frozen head need not exist twice

    def __call__(self, features: Mapping[str, Sequence[Tensor]]) -> tuple[Tensor, Tensor | None]:
        """Return logits (N, A, C) in the student's classes, and box values if they are read.

        Args:
            features: Maps (N, C, H, W) by tower, level by level.
        """
        device = next(iter(features.values()))[0].device
        with self._placed(device), self._teacher.autocast(device):
            logits, boxes = self._run(features)
        indices = self._teacher.class_map.indices
        if indices is not None:
            background = self._width > self._head.num_classes
            scores = ClassScores(logits, 'sigmoid', background=background)
            logits = scores.with_classes(indices).logits
        return logits, boxes

    def _run(self, features: Mapping[str, Sequence[Tensor]]) -> tuple[Tensor, Tensor | None]:
        first = next(iter(features.values()))
        others = [one.detach() for one in first]  # for a tower that is not read
        converts = not torch.is_autocast_enabled(first[0].device.type)
        dtype = next(self._head.parameters()).dtype if converts else None
        for name, feed in self._feeds.items():
            feed.maps = iter([one.to(dtype=dtype) for one in features.get(name, others)])
        output = self._head.forward(first)
        read = cast(DenseDetectorAdapter, self._teacher.adapter).read_head(self._head, output)
        logits = rows_of_scores(read.scores, self._width)
        if not self._boxes:
            return logits, None
        anchors = [one.shape[1] // self._width for one in read.scores]
        boxes = read.require_boxes(self._head, self._width)
        return logits, rows_of_boxes(boxes, anchors, read.kind == 'distribution')

    def _placed(self, device: torch.device) -> AbstractContextManager[None]:
        """Have the weights on a device, where the teacher keeps them in host memory."""
        away = self._teacher.offload and device.type != 'cpu'
        return weights_on(self._head, device) if away else nullcontext()

    @torch.no_grad()
    def _require_same(
        self, features: Mapping[str, Sequence[Tensor]], found: NetworkOutput, name: str
    ) -> None:
        """Refuse a head that is more than its towers and the layers behind them."""
        logits, boxes = self._run(features)
        pairs = []
        if TOWERS[0] in self._reads and found.scores is not None:
            pairs.append((logits, found.scores.logits))
        if boxes is not None and found.boxes is not None:
            pairs.append((boxes, found.boxes.values))
        for own, expected in pairs:
            limit = _TOLERANCE * float(expected.abs().max())
            if own.shape != expected.shape or float((own - expected).abs().max()) > limit:
                raise ConfigError(
                    'type',
                    f'cannot continue the head of {self._teacher.key}: behind its towers it '
                    'outputs something else than with them, or one output reads both towers',
                    'Let all weights be above 0, or use SoftTarget or PKD.',
                    found=name,
                )


def _kept(activation: nn.Module) -> nn.Module:
    """Return an activation that keeps its input: two towers may have the same."""
    copied: Any = copy.copy(activation)
    if getattr(copied, 'inplace', False):
        copied.inplace = False
    return cast(nn.Module, copied)


class _Feed(nn.Module):
    """Stands for the first layers of a tower: it returns given maps, level by level."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: Iterator[Tensor] = iter(())

    def forward(self, _: Tensor) -> Tensor:
        return next(self.maps)
