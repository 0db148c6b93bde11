"""Boxes of several detectors beside the true ones, on images of a data set."""

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
from mmkd_plugin.analysis.images import build_dataset, loader_settings
from mmkd_plugin.analysis.loaded import load_networks
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.installed import MMDET, has
from mmkd_plugin.loading.class_names import class_lists, metas_of

SPLITS = ('val', 'test')
TRUTH = 'ground truth'
#: Number of pictures that are also in ``sheet.png``.
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
    """Draw a picture for each image: ground truth, other networks, the student, its teachers.

    Every network receives an image after the pipeline of ``cfg`` and its own preprocessor. Boxes
    are drawn on the image of the file. True boxes come from the data set, whether or not the
    pipeline loads them.

    Args:
        cfg: A distillation config, one of mutual learning between detectors, or a plain detector's.
            Its data set has the images.
        checkpoint: The checkpoint of its run, or an exported student.
        against: ``(config, checkpoint)`` or ``(config, checkpoint, name)`` each: the student of a
            distillation config, or the detector of any other one.
        out: Folder for the pictures; created if it is missing.
        name: Name of the student in the pictures; ``'student'``, or the name of a plain config's
            file, by default.
        without: Names of networks of ``cfg`` to leave out.
        split: ``'val'`` or ``'test'``.
        images: Number of images, the first ones; all of them if there are no more.
        indices: Indices of images, in place of the first ones.
        score_thr: Boxes with a score of at most this are not drawn.
        device: The device of all networks.

    Returns:
        Paths of the pictures, ``<index>_<name of the image>.png`` each. The last is ``sheet.png``,
        with the first pictures below each other.

    Raises:
        ConfigError: If an argument is out of bounds, a checkpoint does not fit, or a network has
            other classes than the data set.
        ImportError: If MMDet is not installed.
    """
    if not has('mmdet'):
        raise ImportError(f'Pictures of detections need MMDet. Run: {MMDET}')
    positive_integer('--images', images)
    if not 0 <= score_thr <= 1:
        raise ConfigError('--score-thr', 'must be a number from 0 to 1', found=score_thr)
    if out.exists() and not out.is_dir():
        raise ConfigError('--out', 'must be a folder, but there is a file', found=str(out))
    settings = loader_settings(cfg, split, SPLITS)
    networks = load_networks(cfg, checkpoint, against, name=name, without=without, device=device)
    detectors = [*networks.others, *networks.own, *networks.teachers]
    for detector in detectors:
        require_detector(detector)
    paths: list[Path] = []
    rows: list[Picture] = []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        dataset = build_dataset(settings['dataset'])
        known = getattr(dataset, 'metainfo', None)
        meta = next(iter(metas_of(known)), {})  # of the first part
        for detector in detectors:
            for names in class_lists(known):
                require_classes(detector, names)
        chosen = _chosen(indices, images, len(dataset))
        panels = Panels(meta, score_thr)
        out.mkdir(parents=True, exist_ok=True)
        for index in chosen:
            info = dataset.get_data_info(index)
            raw = pseudo_collate([dataset[index]])
            found = {TRUTH: true_boxes(info)} if 'instances' in info else {}
            found |= {detector.name: predicted_boxes(detector, raw) for detector in detectors}
            image = read_image(info['img_path'], getattr(dataset, 'backend_args', None))
            picture = panels.row(image, found)
            paths.append(write(picture, out / f'{index:03}_{Path(info["img_path"]).stem}.png'))
            rows += [picture] if len(rows) < ON_SHEET else []
    return [*paths, write(sheet(rows), out / 'sheet.png')]


def require_detector(network: LoadedNetwork) -> None:
    """Refuse a network that is no detector.

    Raises:
        ConfigError: If it is none.
    """
    if network.adapter.task != 'detection':
        raise ConfigError(network.name, 'must be a detector', found=type(network.model).__name__)


def require_classes(detector: LoadedNetwork, expected: Sequence[str]) -> None:
    """Refuse a detector of other classes than the data set's, or in another order.

    Args:
        detector: The detector. A ``class_map`` may relate its classes to those of the data set.
        expected: Class names of the data set.

    Raises:
        ConfigError: If they differ without a ``class_map``.
    """
    if detector.class_map.indices is not None:
        return
    count = getattr(detector.adapter, 'num_classes', None)
    names = None if detector.classes is None else list(detector.classes)
    if names in (None, list(expected)) and count in (None, len(expected)):
        return
    few = ', '.join(expected[:4]) + (', …' if len(expected) > 4 else '')
    raise ConfigError(
        detector.name,
        f'must be a detector of the {len(expected)} classes of the data set, {few}',
        f'To leave a network of the config out, add --without {detector.name}.',
        found=names or count,
    )


def true_boxes(info: Mapping[str, Any]) -> InstanceData:
    """Return the true boxes of an image, ``bboxes`` (n, 4) and ``labels`` (n,).

    Crowds and boxes to be ignored are left out.

    Args:
        info: The data set's annotation of the image.

    Example:
        >>> box = dict(bbox=[1, 2, 3, 4], bbox_label=0)
        >>> crowd = dict(box, ignore_flag=1)
        >>> true_boxes(dict(instances=[box, crowd])).bboxes.tolist()
        [[1.0, 2.0, 3.0, 4.0]]
    """
    instances = [one for one in info['instances'] if not one.get('ignore_flag')]
    boxes = torch.tensor([one['bbox'] for one in instances], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([one['bbox_label'] for one in instances], dtype=torch.long)
    return InstanceData(bboxes=boxes, labels=labels)


def predicted_boxes(detector: LoadedNetwork, raw: Any) -> InstanceData:
    """Return ``bboxes`` (n, 4) in pixels of the file, ``labels`` and ``scores`` (n,); no masks.

    Raises:
        ConfigError: If the network outputs no boxes.
    """
    [sample] = detector.predict(raw)
    found = sample.get('pred_instances')
    if found is None or 'bboxes' not in found or 'scores' not in found:
        model = type(detector.model).__name__
        raise ConfigError(detector.name, 'must be a detector that outputs boxes', found=model)
    return InstanceData(bboxes=found.bboxes, labels=found.labels, scores=found.scores).cpu()


def read_image(path: str, backend_args: Mapping[str, Any] | None) -> Picture:
    """Read (H, W, 3) in RGB, turned by its EXIF orientation, as pipelines do."""
    from mmcv import imfrombytes  # here, because the import takes a second

    image: Picture = imfrombytes(fileio.get(path, backend_args=backend_args), channel_order='rgb')
    return image


def write(picture: Picture, path: Path) -> Path:
    """Write (H, W, 3) in RGB as a file, and return its path."""
    from mmcv import imwrite

    imwrite(picture[..., ::-1], str(path))
    return path


def _chosen(indices: Sequence[int] | None, images: int, size: int) -> Sequence[int]:
    if size == 0:
        raise ConfigError('--split', 'must hold at least one image')
    if indices is None:
        return range(min(images, size))
    if not indices or not all(0 <= index < size for index in indices):
        problem = f'must be indices of images from 0 to {size - 1}'
        raise ConfigError('--indices', problem, found=list(indices))
    return indices
