"""Scenes on disk: written once, whole, and the same by whoever comes first.

::

    manifest.json                      the recipe and its hash: written first, it says whose folder this is
    images/train_00000.png             all splits
    annotations/{train,val,test}.json  COCO; written last, it says that its split is there
    VOC2007/Annotations/*.xml
    VOC2007/ImageSets/Main/{train,val,test}.txt
    VOC2007/JPEGImages/*.jpg           links to the images: MMDet's VOCDataset asks for this suffix, decoders for none
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmkd_plugin.datasets.digit_scenes.annotations import CocoAnnotations, voc_annotation
from mmkd_plugin.datasets.digit_scenes.recipe import SceneRecipe
from mmkd_plugin.datasets.digit_scenes.scene import compose
from mmkd_plugin.datasets.mnist import read_mnist
from mmkd_plugin.datasets.splits import SPLITS, split_rows

FOLDERS = (
    'images',
    'annotations',
    'VOC2007/Annotations',
    'VOC2007/ImageSets/Main',
    'VOC2007/JPEGImages',
)


def write_scenes(root: str | Path, recipe: SceneRecipe, overwrite: bool = False) -> bool:
    """Write what of the scenes is not there yet, in COCO's format with a VOC twin.

    Of several processes that come at once one writes and the others wait. After an interruption the splits that are whole
    stay, and the others are written anew.

    Args:
        root: Folder of the data set; made if need be.
        recipe: What the scenes are.
        overwrite: Whether scenes of another recipe in this folder are deleted.

    Returns:
        Whether this call wrote anything.

    Raises:
        ValueError: If the folder holds scenes of another recipe, or something else.
    """
    root = Path(root)
    if _is_whole(root, recipe):
        return False
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root / '.lock'):
        if _is_whole(root, recipe):  # by whoever was here before
            return False
        _claim(root, recipe, overwrite)
        print_log(
            f'Writing {sum(recipe.scenes.values())} scenes of digits into {root}, once',
            logger='current',
        )
        images, labels = read_mnist('DigitScenes')
        for split in SPLITS:
            if not _annotations(root, split).exists():
                rows = split_rows(labels, split)
                _write_split(root, recipe, split, images[rows], labels[rows])
    return True


def _is_whole(root: Path, recipe: SceneRecipe) -> bool:
    manifest = _manifest(root)
    return (
        manifest is not None
        and manifest['recipe_sha256'] == recipe.sha256
        and all(_annotations(root, split).exists() for split in SPLITS)
    )


def _manifest(root: Path) -> dict[str, Any] | None:
    path = root / 'manifest.json'
    return json.loads(path.read_text()) if path.exists() else None


def _annotations(root: Path, split: str) -> Path:
    return root / f'annotations/{split}.json'


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock, which ends with the process, however that ends."""
    with path.open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_log(f'Waiting for another process, which writes {path.parent}', logger='current')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _claim(root: Path, recipe: SceneRecipe, overwrite: bool) -> None:
    """Make the folder this recipe's, or refuse."""
    manifest, facts = _manifest(root), recipe.facts()
    if manifest is None and (
        others := sorted({path.name for path in root.iterdir()} - {'.lock', '.manifest.json'})
    ):
        raise ValueError(
            f'DigitScenes.data_root: expected a folder of its own, found {", ".join(others[:5])} in {root}'
        )
    if manifest is not None and manifest['recipe_sha256'] != recipe.sha256:
        if not overwrite:
            found = manifest['recipe']
            keys = [key for key in {**found, **facts} if found.get(key) != facts.get(key)]
            raise ValueError(
                f'DigitScenes.data_root: expected {", ".join(f"{key} {facts.get(key)}" for key in keys)}, found '
                f'{", ".join(f"{key} {found.get(key)}" for key in keys)} in {root}. Name another folder, or delete this one'
            )
        for name in ('annotations', 'images', 'VOC2007'):
            shutil.rmtree(root / name, ignore_errors=True)
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    _write_whole(
        root / 'manifest.json',
        json.dumps(dict(recipe_sha256=recipe.sha256, recipe=facts), indent=2) + '\n',
    )


def _write_split(
    root: Path,
    recipe: SceneRecipe,
    split: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> None:
    coco, pixels = CocoAnnotations(), hashlib.sha256()
    names = [f'{split}_{index:05d}' for index in range(recipe.scenes[split])]
    for index, name in enumerate(names):
        chance = np.random.default_rng([recipe.seed, SPLITS.index(split), index])
        scene = compose(images, labels, chance, recipe.image_size)
        if not cv2.imwrite(str(root / f'images/{name}.png'), scene.image):
            raise OSError(f'{root}/images/{name}.png could not be written')
        (root / f'VOC2007/Annotations/{name}.xml').write_text(voc_annotation(f'{name}.jpg', scene))
        link = root / f'VOC2007/JPEGImages/{name}.jpg'
        link.unlink(missing_ok=True)
        link.symlink_to(f'../../images/{name}.png')
        coco.add(f'{name}.png', scene)
        pixels.update(scene.image.tobytes())
    (root / f'VOC2007/ImageSets/Main/{split}.txt').write_text('\n'.join(names) + '\n')
    document = coco.document(
        description=f'Scenes of real handwritten digits: {split}',
        recipe_sha256=recipe.sha256,
        pixels_sha256=pixels.hexdigest(),
    )
    _write_whole(_annotations(root, split), json.dumps(document))


def _write_whole(path: Path, text: str) -> None:
    new = path.with_name(f'.{path.name}')
    new.write_text(text)
    new.replace(path)
