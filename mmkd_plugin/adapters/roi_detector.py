"""MMDet's two-stage detectors, whose RoI head scores the classes of sampled regions."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.detector import DetectorAdapter
from mmkd_plugin.adapters.region_heads import find_region_head
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import ClassScores

_FIX = 'Use methods on taps of the backbone or the neck alone.'


@dataclass(frozen=True, eq=False)
class _Call:
    """A call of a box head: its stage, its regions (R, 5), their scores (R, C)."""

    stage: int
    rois: Tensor
    rows: Tensor
    graph: bool


class RoIDetectorAdapter(DetectorAdapter):
    """A detector that scores the classes of regions of interest, once or stage by stage.

    The student's training forward samples the regions. A teacher's box head classifies the same
    regions, on the teacher's features. So distillation neither proposes nor samples regions.

    A sampler such as OHEM calls the box head as well, without gradients. Those calls do not count.
    """

    watches = True
    scores_need_training = True

    def __init__(self, model: nn.Module) -> None:
        roi_head: Any = getattr(model, 'roi_head', None)
        self._heads = _stages(getattr(roi_head, 'bbox_head', None))
        self._extractors = _stages(getattr(roi_head, 'bbox_roi_extractor', None))
        super().__init__(self._heads[0] if self._heads else None)
        self._region_head = find_region_head(roi_head) if self._heads else None
        self._calls: list[_Call] = []
        if self._region_head is None:
            found = type(roi_head).__name__
            self.no_scores = f'{found} has no box head' if not self._heads else _unknown(roi_head)

    @property
    def scores_known(self) -> bool:
        return self._region_head is not None

    def run(
        self,
        model: nn.Module,
        inputs: Any,
        scores: bool,
        rois: Sequence[Tensor] = (),
        paths: Collection[str] = (),
        data_samples: Any = None,
    ) -> None:
        regional = [path for path in paths if self.needs_regions(path)]
        others = [path for path in paths if path not in regional]
        features = self.run_parts(model, inputs, others, data_samples)
        if regional:
            self.require_reach(model, regional[0])
        if self._region_head is None or not (scores or regional):
            return
        if len(features[0]) != len(inputs):
            copies = len(features[0]) / len(inputs)
            raise ConfigError(
                '',
                f'class scores and taps of the RoI head of {type(model).__name__} are not '
                f'supported: it makes {copies:g} feature maps of each image',
                _FIX,
                found=tuple(features[0].shape),
            )
        regions = rois or [_whole_images(inputs)] * len(self._heads)
        if len(regions) > len(self._heads):
            raise ConfigError(
                '',
                f'the RoI head of {type(model).__name__} has fewer stages than that of the student',
                _FIX,
                found=len(self._heads),
            )
        self._region_head.classify(model.roi_head, features, regions)

    def obstacle(self, model: nn.Module, path: str) -> str:
        if path.partition('.')[0] != 'roi_head':
            return super().obstacle(model, path)
        return '' if self._region_head is not None else self.no_scores

    def needs_regions(self, path: str) -> bool:
        return path.partition('.')[0] == 'roi_head'

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Note the calls of the box heads, each with the regions of the extractor before it."""
        self._calls = []
        latest: dict[int, Tensor] = {}

        def regions(stage: int, args: Any, kwargs: Any) -> None:
            latest[stage] = kwargs['rois'] if 'rois' in kwargs else args[1]

        def scores(stage: int, output: Any) -> None:
            rows = output[0] if isinstance(output, (tuple, list)) else output
            if stage in latest and isinstance(rows, Tensor):
                self._calls.append(_Call(stage, latest[stage], rows, torch.is_grad_enabled()))

        with ExitStack() as stack:
            for stage, (extractor, head) in enumerate(
                zip(self._extractors, self._heads, strict=True)
            ):
                handles = (
                    extractor.register_forward_pre_hook(
                        lambda _, args, kwargs, stage=stage: regions(stage, args, kwargs),
                        with_kwargs=True,
                    ),
                    head.register_forward_hook(
                        lambda _, __, output, stage=stage: scores(stage, output)
                    ),
                )
                for handle in handles:
                    stack.callback(handle.remove)
            yield

    def class_scores(
        self,
        model: nn.Module,
        found: Mapping[str, list[Tensor]],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> ClassScores | None:
        calls, self._calls = self._calls, []
        stages: list[_Call] = []
        for stage in range(len(self._heads)):
            of_stage = [call for call in calls if call.stage == stage]
            # The training forward scores last, and with gradients; samplers score before it.
            of_stage = [call for call in of_stage if call.graph] or of_stage
            if not of_stage:  # a cascade ends where no region is left
                break
            stages.append(of_stage[-1])
        if not stages:
            raise ConfigError('', 'the box head does not run in this forward', _FIX)
        head: Any = self._heads[0]
        by_image = [
            _by_image(call.rois, _class_logits(self._heads[call.stage], call.rows), len(inputs))
            for call in stages
        ]
        logits, valid = (torch.cat(parts, dim=1) for parts in zip(*by_image, strict=True))
        sigmoid = getattr(getattr(head, 'loss_cls', None), 'use_sigmoid', False)
        return ClassScores(
            logits,
            'sigmoid' if sigmoid else 'softmax',
            background=logits.shape[-1] > (self.num_classes or 0),
            rois=tuple(call.rois for call in stages),
            valid=valid,
        )


def _stages(part: Any) -> list[nn.Module]:
    """Return the modules of the stages: those of a list, or one."""
    if part is None:
        return []
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _unknown(roi_head: nn.Module) -> str:
    name = type(roi_head).__name__
    if hasattr(roi_head, 'proposal_feature_channel'):
        return f'the regions of {name} are learned queries, which differ between networks'
    return f'it is not registered how {name} classifies regions (register_region_head)'


def _class_logits(head: Any, rows: Tensor) -> Tensor:
    """Return logits of the classes and the background, (R, C + 1), of a head's own form.

    Raises:
        ConfigError: If the head scores in a form of its own that is no distribution.
    """
    if not getattr(head, 'custom_cls_channels', False):
        return rows
    scores = head.loss_cls.get_activation(rows.to(torch.promote_types(rows.dtype, torch.float32)))
    total = scores.detach().sum(dim=-1)
    if scores.shape[-1] != head.num_classes + 1 or not torch.allclose(
        total, torch.ones_like(total), atol=1e-3
    ):
        raise ConfigError(
            '',
            f'class scores of {type(head).__name__} are not supported: '
            f'{type(head.loss_cls).__name__} makes no distribution over the classes and the '
            'background of them',
            _FIX,
            found=tuple(scores.shape),
        )
    logits: Tensor = scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return logits


def _whole_images(inputs: Tensor) -> Tensor:
    """Return each image as one region, (N, 5)."""
    height, width = inputs.shape[2:]
    corners = torch.tensor([0.0, 0.0, width, height], device=inputs.device).expand(len(inputs), 4)
    return torch.cat([torch.arange(len(inputs), device=inputs.device)[:, None], corners], dim=1)


def _by_image(rois: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Arrange the scores (R, C) of regions by image: (N, A, C), and the mask of regions (N, A).

    Raises:
        ConfigError: If the scores are not those of the regions, or a region is of no image.
    """
    images = rois[:, 0].long()
    regions = torch.bincount(images, minlength=count)
    if len(rows) != len(rois) or len(regions) != count:
        raise ConfigError(
            '',
            f'the {len(rows)} class scores must belong to the {len(rois)} regions of the '
            f'{count} images of the batch',
            _FIX,
            found=f'regions of {len(regions)} images',
        )
    slots = torch.arange(len(rois), device=rois.device) - (regions.cumsum(0) - regions)[images]
    valid = torch.arange(int(regions.max()), device=rois.device) < regions[:, None]
    logits = rows.new_zeros(*valid.shape, rows.shape[1]).index_put((images, slots), rows)
    return logits, valid
