"""Boxes of several detectors beside the true ones, on the first images of a data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmkd_plugin.analysis.detection_picture import Panels, Picture, sheet
from mmkd_plugin.analysis.detectors import Detector, load_detectors
from mmkd_plugin.analysis.images import build_dataset, loader_settings
from mmkd_plugin.errors import positive_integer
from mmkd_plugin.installed import DETECTION, has

SPLITS = ('val', 'test')
TRUTH = 'ground truth'
#: The first so many pictures are also in ``sheet.png``.
ON_SHEET = 4


def compare_detections(
    cfg: Config,
    checkpoint: str,
    against: Sequence[Sequence[str]] = (),
    *,
    out: Path,
    name: str | None = None,
    without: Sequence[str] = (),
    split: str = 'test',
    images: int = 8,
    indices: Sequence[int] | None = None,
    score_thr: float = 0.3,
    device: str | torch.device = 'cpu',
) -> list[Path]:
    """A picture for each image: ground truth, the networks to compare with, the student, its teachers.

    Every network sees an image as the pipeline of ``cfg`` and then its own preprocessor make it. Boxes are drawn on the image as it
    is in its file, true ones as the data set has them, whether or not the pipeline loads them.

    Args:
        cfg: A distillation config, one of detectors that learn from each other, or a plain detector's. The images are its own.
        checkpoint: Of its run, or an exported student.
        against: ``(config, checkpoint)`` or ``(config, checkpoint, name)`` each: the student of a distillation config, or the
            detector of any other one.
        out: Folder for the pictures; made if it is not there.
        name: Of the student in the pictures; default ``'student'``, or a plain config's own name.
        without: Names of networks of ``cfg`` to leave out.
        split: ``'val'`` or ``'test'``.
        images: The first ones, at most as many as there are.
        indices: Which ones, in place of the first.
        score_thr: Boxes that a network is not surer of are not drawn.
        device: Where the networks run.

    Returns:
        The pictures' paths, ``<index>_<name of the image>.png`` each, and last ``sheet.png``, with the first of them below each other.

    Raises:
        ValueError: If an argument is out of bounds, a checkpoint does not fit, or the networks do not have the data set's classes.
        ImportError: If MMDet is not installed.
    """
    if not has('mmdet'):
        raise ImportError(f'Pictures of detections need MMDet: {DETECTION}')
    positive_integer('--images', images)
    if not 0 <= score_thr <= 1:
        raise ValueError(f'--score-thr: expected a number from 0 to 1, got {score_thr!r}')
    if out.exists() and not out.is_dir():
        raise ValueError(f'--out: expected a folder, got the file {out}')
    settings = loader_settings(cfg, split, SPLITS)
    detectors = load_detectors(cfg, checkpoint, against, name, without, device)
    paths: list[Path] = []
    rows: list[Picture] = []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        dataset = build_dataset(settings['dataset'])
        meta = getattr(dataset, 'metainfo', None) or {}
        for detector in detectors:
            detector.require_classes(meta.get('classes'))
        chosen = _chosen(indices, images, len(dataset))
        panels = Panels(meta, score_thr)
        out.mkdir(parents=True, exist_ok=True)
        for index in chosen:
            info = dataset.get_data_info(index)
            raw = pseudo_collate([dataset[index]])
            found = {TRUTH: true_boxes(info)} if 'instances' in info else {}
            found |= {detector.name: predicted_boxes(detector, raw) for detector in detectors}
            picture = panels.row(
                read_image(info['img_path'], getattr(dataset, 'backend_args', None)), found
            )
            paths.append(write(picture, out / f'{index:03}_{Path(info["img_path"]).stem}.png'))
            rows += [picture] if len(rows) < ON_SHEET else []
    return [*paths, write(sheet(rows), out / 'sheet.png')]


def true_boxes(info: Mapping[str, Any]) -> InstanceData:
    """What a data set says of an image: ``bboxes`` (n, 4) and ``labels`` (n,); crowds and boxes to be ignored are left out."""
    instances = [one for one in info['instances'] if not one.get('ignore_flag')]
    boxes = torch.tensor([one['bbox'] for one in instances], dtype=torch.float32).reshape(-1, 4)
    return InstanceData(
        bboxes=boxes,
        labels=torch.tensor([one['bbox_label'] for one in instances], dtype=torch.long),
    )


def predicted_boxes(detector: Detector, raw: Any) -> InstanceData:
    """``bboxes`` (n, 4) in pixels of the file, ``labels`` and ``scores`` (n,); of masks nothing is drawn.

    Raises:
        ValueError: If the network finds no boxes.
    """
    [sample] = detector.predict(raw)
    found = sample.get('pred_instances')
    if found is None or 'bboxes' not in found or 'scores' not in found:
        raise ValueError(
            f'{detector.name}: expected a detector of boxes, got {type(detector.model).__name__}'
        )
    return InstanceData(bboxes=found.bboxes, labels=found.labels, scores=found.scores).cpu()


def read_image(path: str, backend_args: Mapping[str, Any] | None) -> Picture:
    """(H, W, 3) in RGB, turned as its EXIF says, as pipelines read it."""
    from mmcv import imfrombytes  # here: mmcv takes a second

    image: Picture = imfrombytes(fileio.get(path, backend_args=backend_args), channel_order='rgb')
    return image


def write(picture: Picture, path: Path) -> Path:
    """Write (H, W, 3) in RGB as a file; give its path back."""
    from mmcv import imwrite

    imwrite(picture[..., ::-1], str(path))
    return path


def _chosen(indices: Sequence[int] | None, images: int, there: int) -> Sequence[int]:
    if there == 0:
        raise ValueError('--split: expected a data set with images, got an empty one')
    if indices is None:
        return range(min(images, there))
    if not indices or not all(0 <= index < there for index in indices):
        raise ValueError(
            f'--indices: expected numbers of images from 0 to {there - 1}, got {list(indices)}'
        )
    return indices
