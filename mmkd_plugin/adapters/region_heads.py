"""How RoI heads classify given regions: functions that users can register for their own heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

#: Maps an RoI head, the features of the neck and the regions (R, 5) of each stage to nothing: it
#: runs the extractors and the box heads of the stages.
Classify = Callable[[Any, Any, Sequence[Tensor]], None]
F = TypeVar('F', bound=Classify)


@dataclass(frozen=True)
class RegionHead:
    """How a kind of RoI head classifies regions.

    Args:
        classify: Runs the box heads on regions.
        overrides: Methods that decide how the box heads run.
    """

    classify: Classify
    overrides: tuple[str, ...]


_HEADS: dict[str | type, RegionHead] = {}


def register_region_head(
    *heads: str | type, overrides: Sequence[str] = ('_bbox_forward',)
) -> Callable[[F], F]:
    """Register a function that classifies given regions with an RoI head.

    The head has ``bbox_roi_extractor`` and ``bbox_head``, each a module or a list with one a stage.
    The extractor receives ``(features, rois)``; the box head returns the class scores (R, C) first.
    A subclass of a registered head is known too, unless it overrides one of ``overrides``.

    Args:
        heads: Classes, or names such as ``'mmdet.StandardRoIHead'``: the top-level package and the
            class. A name does not import the package.
        overrides: Methods that decide how the box heads run.

    Example:
        >>> class MyRoIHead: ...
        >>> @register_region_head(MyRoIHead)
        ... def classify(roi_head, features, regions):
        ...     roi_head.classify(features, regions[0])
        >>> find_region_head(MyRoIHead()).classify is classify
        True
    """

    def register(classify: F) -> F:
        for head in heads:
            _HEADS[head] = RegionHead(classify, tuple(overrides))
        return classify

    return register


def find_region_head(roi_head: object) -> RegionHead | None:
    """Return how an RoI head classifies regions, by the nearest registered class.

    None if there is none, or if a class before it overrides what decides the call.
    """
    overridden: set[str] = set()
    for cls in type(roi_head).__mro__:
        found = _HEADS.get(cls) or _HEADS.get(f'{cls.__module__.partition(".")[0]}.{cls.__name__}')
        if found is not None:
            return None if overridden.intersection(found.overrides) else found
        overridden.update(vars(cls))
    return None


@register_region_head('mmdet.StandardRoIHead', 'mmdet.DoubleHeadRoIHead')
def classify_once(roi_head: Any, features: Any, regions: Sequence[Tensor]) -> None:
    """Classify the regions of a head with one stage."""
    for rois in regions:
        roi_head._bbox_forward(features, rois)


@register_region_head('mmdet.CascadeRoIHead')
def classify_by_stage(roi_head: Any, features: Any, regions: Sequence[Tensor]) -> None:
    """Classify the regions of each stage."""
    for stage, rois in enumerate(regions):
        roi_head._bbox_forward(stage, features, rois)


@register_region_head('mmdet.HybridTaskCascadeRoIHead', 'mmdet.SCNetRoIHead')
def classify_with_context(roi_head: Any, features: Any, regions: Sequence[Tensor]) -> None:
    """Classify the regions of each stage with semantic features and a global context, if any."""
    context = {}
    for name in ('semantic', 'glbctx'):
        if getattr(roi_head, f'with_{name}', False):
            context[f'{name}_feat'] = getattr(roi_head, f'{name}_head')(features)[1]
    for stage, rois in enumerate(regions):
        roi_head._bbox_forward(stage, features, rois, **context)
