"""MMDet's one-stage detectors, whose head scores classes at every location of every level."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import mmkd_plugin.adapters.dense_heads  # noqa: F401  it registers MMDet's heads
from mmkd_plugin.adapters.dense_locations import (
    Strides,
    anchor_grids,
    first_priors,
    strides_of,
)
from mmkd_plugin.adapters.detector import DetectorAdapter
from mmkd_plugin.adapters.head_output import (
    HeadOutput,
    rows_of_boxes,
    stated_anchors,
)
from mmkd_plugin.adapters.score_readers import find_score_reader, overridden_head
from mmkd_plugin.anchors import AnchorGrid, DeltaCoder
from mmkd_plugin.boxes import Levels
from mmkd_plugin.outputs import BoxOutputs, ClassScores


class DenseDetectorAdapter(DetectorAdapter):
    """A detector with a box head, or a mask head on a grid, that scores classes at locations.

    In training MMDet calls that head as a module, so a tap on it records its output. In tensor mode
    MMDet calls ``bbox_head.forward`` past the hooks, so :meth:`run` calls the parts. Some heads
    return something else in eval mode: probabilities, masked scores, decoded boxes. :meth:`run`
    calls the head, and not the layers inside, in the form of training.
    """

    def __init__(self, model: nn.Module) -> None:
        names = ('bbox_head', 'mask_head')
        self._tap = next((name for name in names if getattr(model, name, None) is not None), '')
        head: Any = getattr(model, self._tap, None)
        super().__init__(head)
        self._box_form: tuple[str | None, str, DeltaCoder | None] = (None, '', None)
        self._reader = find_score_reader(head)
        self._anchors = stated_anchors(head)
        self._form_checked = False
        self._strides: dict[Any, tuple[Strides, bool]] = {}
        self._priors: dict[str, tuple[tuple[float, ...], ...]] = {}
        self._anchors_of: dict[str, tuple[AnchorGrid, ...]] = {}
        self._targets: Sequence[Any] = ()
        self.no_scores = self._reason(model, head)
        if self.no_scores:
            return
        self.score_taps = {self._tap: self._pick_scores}
        self.box_taps = {self._tap: self._pick_boxes}

    def _reason(self, model: nn.Module, head: Any) -> str:
        """Return why the class scores are unknown; an empty string if they are known."""
        if head is None:
            return 'it has no head that scores classes at locations'
        name = type(head).__name__
        if self._reader is None:
            if obstacle := self.obstacle(model, self._tap):
                return f'{name} cannot be called on maps: {obstacle}'
            if overridden := overridden_head(head):
                return f'{name} overrides what {overridden} returns'
            return f'no score reader is registered for {name}'
        if self.num_classes is None:
            return f'{name} has no attribute num_classes'
        if score_channels(head) - self.num_classes not in (0, 1):
            return (
                f'{name} has {score_channels(head)} channels for {self.num_classes} classes, so '
                'they are no classes with or without a background'
            )
        return ''

    def run(
        self,
        model: nn.Module,
        inputs: Any,
        scores: bool,
        rois: Sequence[Tensor] = (),
        paths: Collection[str] = (),
        data_samples: Any = None,
    ) -> None:
        others = [path for path in paths if path.partition('.')[0] != self._tap]
        if others:
            features = self.run_parts(model, inputs, others, data_samples)
        else:
            features = model.extract_feat(inputs)  # type: ignore[operator]
        head: Any = getattr(model, self._tap, None)
        if len(others) < len(paths):
            self.require_reach(model, self._tap)
        elif not (scores and self.score_taps):
            return
        with _in_form_of_training(head):
            head(features)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Note the objects that the head's assigner gives to its locations, for its own losses."""
        head: Any = getattr(model, self._tap)
        assign = getattr(head, 'get_targets', None)
        self._targets = ()
        if assign is None:
            yield
            return

        def noted(*args: Any, **kwargs: Any) -> Any:
            targets = assign(*args, **kwargs)
            self._targets = targets if isinstance(targets, (list, tuple)) else ()
            return targets

        head.get_targets = noted
        try:
            yield
        finally:
            vars(head).pop('get_targets', None)

    def class_scores(
        self,
        model: nn.Module,
        found: Mapping[str, list[Tensor]],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> ClassScores | None:
        head: Any = getattr(model, self._tap)
        maps = found[self._tap]
        sigmoid = getattr(head, 'use_sigmoid_cls', True)
        activation = self._reader.activation if self._reader else None
        channels = score_channels(head)
        levels = tuple((m.shape[2], m.shape[3], m.shape[1] // channels) for m in maps)
        size = (*inputs.shape[-2:], *levels)
        if size not in self._strides:  # a run has few sizes
            self._strides[size] = strides_of(head, inputs.shape[-2:], levels)
        strides, stated_by_head = self._strides[size]
        valid = None
        if data_samples:
            sizes = [sample.img_shape[:2] for sample in data_samples]
            valid = _inside(sizes, levels, strides, maps[0].device)
        targets, self._targets = self._targets, ()
        return ClassScores(
            rows_of_scores(maps, channels),
            activation or ('sigmoid' if sigmoid else 'softmax'),
            background=channels > head.num_classes,
            levels=levels,
            valid=valid,
            strides=strides if stated_by_head else (),
            assigned=_assigned_classes(targets, int(head.num_classes), len(maps[0]), levels),
        )

    def box_outputs(
        self, model: nn.Module, found: Mapping[str, list[Tensor]], scores: ClassScores
    ) -> BoxOutputs:
        head: Any = getattr(model, self._tap)
        kind, coding, coder = self._box_form
        name = str(kind)
        if name not in self._priors:  # they do not change
            self._priors[name] = first_priors(head, len(scores.levels), points=kind != 'delta')
            self._anchors_of[name] = anchor_grids(head, len(scores.levels))
        anchors = [number for _, _, number in scores.levels]
        return BoxOutputs(
            rows_of_boxes(found[self._tap], anchors, kind == 'distribution'),
            name,
            coding,
            self._priors[name],
            scores.levels,
            scores.valid,
            self._anchors_of[name],
            coder,
        )

    def labels(self, data_samples: Sequence[Any] | None) -> Tensor | None:
        """Return which classes are in each image; an RPN has one, for every object."""
        if self.num_classes != 1 or self.missing_labels(data_samples):
            return super().labels(data_samples)
        assert data_samples is not None
        found = [sample.gt_instances.labels for sample in data_samples]
        return torch.stack([one.new_tensor([len(one) > 0]).float() for one in found])

    @property
    def head_path(self) -> str:
        """Path of the head; empty if there is none."""
        return self._tap

    def read_head(self, head: nn.Module, output: Any) -> HeadOutput:
        """Read what the head, or a copy of it, returns in training."""
        assert self._reader is not None
        return HeadOutput.read(self._reader.read, head, output)

    def _pick_scores(self, head: nn.Module, output: Any) -> list[Tensor]:
        assert self._reader is not None
        if self._form_checked:  # at the probe: a head keeps its form
            found = self._reader.read(head, output)
            return list(found.scores if isinstance(found, HeadOutput) else found)
        read = HeadOutput.read(self._reader.read, head, output)
        scores = read.require_scores(head, score_channels(head), self._anchors)
        self._form_checked = True
        return scores

    def _pick_boxes(self, head: nn.Module, output: Any) -> list[Tensor]:
        assert self._reader is not None
        read = HeadOutput.read(self._reader.read, head, output)
        self._box_form = read.kind, read.coding, read.coder
        return read.require_boxes(head, score_channels(head))


def rows_of_scores(maps: Sequence[Tensor], width: int) -> Tensor:
    """Return the scores of all locations, (N, A, width), of maps (N, anchors * width, H, W)."""
    rows = [one.permute(0, 2, 3, 1).reshape(len(one), -1, width) for one in maps]
    return torch.cat(rows, dim=1)


def _inside(
    sizes: Sequence[Sequence[int]], levels: Levels, strides: Strides, device: torch.device
) -> Tensor:
    """Mask the locations inside each image, (N, A), by their top left corner as MMDet does.

    Args:
        sizes: (height, width) of each image, without padding.
        levels: (rows, columns, anchors) of each level.
        strides: (across, down) of each level.
        device: Device of the mask.
    """
    size = torch.tensor([tuple(one) for one in sizes], device=device)
    masks = []
    for (rows, columns, anchors), (across, down) in zip(levels, strides, strict=True):
        inside_rows = torch.arange(rows, device=device) * down < size[:, :1]
        inside_columns = torch.arange(columns, device=device) * across < size[:, 1:]
        grid = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
        masks.append(grid.expand(-1, -1, -1, anchors).flatten(1))
    return torch.cat(masks, dim=1)


def score_channels(head: Any) -> int:
    """Return the number of channels that score one anchor."""
    return int(getattr(head, 'cls_out_channels', head.num_classes))


def _assigned_classes(
    targets: Sequence[Any], classes: int, images: int, levels: Levels
) -> Tensor | None:
    """Return the class at each location, (N, A), or -1, from the targets of MMDet's heads.

    Their labels are a list by level, (N, A_level) or (N * A_level,), or one tensor (N, A), among
    other targets. None if there are no such.
    """
    counts = [rows * columns * anchors for rows, columns, anchors in levels]
    for found in targets:
        parts = [found] if isinstance(found, Tensor) else found
        sizes = [sum(counts)] if isinstance(found, Tensor) else counts
        if not isinstance(parts, (list, tuple)) or len(parts) != len(sizes):
            continue
        if all(
            isinstance(one, Tensor) and one.dtype == torch.int64 and one.numel() == images * size
            for one, size in zip(parts, sizes, strict=True)
        ):
            labels = torch.cat([one.reshape(images, -1) for one in parts], dim=1)
            return torch.where((labels >= 0) & (labels < classes), labels, -1)
    return None


@contextmanager
def _in_form_of_training(head: nn.Module) -> Iterator[None]:
    """Let a head return what it returns in training; normalisation inside it stays as it is."""
    before = head.training
    head.training = True  # of this module alone: train() would change its layers as well
    try:
        yield
    finally:
        head.training = before
