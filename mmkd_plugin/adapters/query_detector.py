"""MMDet's detectors that answer by queries: DETR, Deformable DETR, DINO."""

from torch import nn

from mmkd_plugin.adapters.detector import DetectorHost


class QueryDetectorHost(DetectorHost):
    """A detector whose backbone and neck can be tapped; its queries stand for nothing that another network's stand for."""

    why_no_scores = (
        'its queries do not correspond to those of another network; use methods on taps alone'
    )

    def __init__(self, model: nn.Module) -> None:
        super().__init__(getattr(model, 'bbox_head', None))
