"""The manifest of a store."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import coco_files, stores, views
from helpers.classification import TinyImages
from helpers.errors import raises_config_error
from mmengine.config import Config

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.replay import ReplayedDataset, RowFormat, describe, manifest, manifest_of
from mmkd_plugin.replay.logits import LogitCodec
from mmkd_plugin.replay.manifest import (
    normalised,
    require_same_manifest,
    samples_hash,
    versions,
)


def made(**changes: Any) -> dict[str, Any]:
    config = views.noise_images()
    settings: dict[str, Any] = dict(
        dataset=ReplayedDataset(config, views=4, seed=2, checks=0),
        pipeline=dict(type='mmkd_plugin.ReplayedDataset', dataset=config, views=4, seed=2),
        row=RowFormat(LogitCodec(100)),
        teacher_sha256='ab' * 32,
        teacher_config=dict(type='ImageClassifier', backbone=dict(depth=56), init_cfg=None),
        preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3),
    )
    return manifest_of(**{**settings, **changes})


def replayed(config: Any = None, **changes: Any) -> ReplayedDataset:
    settings = dict(views=4, seed=2, checks=0)
    return ReplayedDataset(config or views.noise_images(), **{**settings, **changes})


def pipeline(**changes: Any) -> dict[str, Any]:
    config = views.noise_images()
    config['pipeline'][1].update(changes)
    return config


def test_manifest_is_json_and_equal_for_an_equal_run() -> None:
    first = made()
    assert json.loads(json.dumps(first)) == first
    require_same_manifest(json.loads(json.dumps(first)), made())


@pytest.mark.parametrize(
    ('changes', 'key', 'found'),
    [
        (lambda: dict(teacher_sha256='cd' * 32), 'teacher', 'cd' * 32),
        (lambda: dict(teacher_config=dict(type='ImageClassifier')), 'teacher_config', None),
        (lambda: dict(preprocessor=dict(mean=[120.0] * 3, std=[1.0] * 3)),
         'preprocessor.std[0]', 1.0),
        (lambda: dict(preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True)),
         'preprocessor.to_rgb', True),
        (lambda: dict(pipeline=pipeline(prob=0.25)), 'pipeline.pipeline[1].prob', 0.25),
        (lambda: dict(pipeline=pipeline(direction='vertical')),
         'pipeline.pipeline[1].direction', 'vertical'),
        (lambda: dict(dataset=replayed(seed=3)), 'seed', 3),
        (lambda: dict(dataset=replayed(views=5)), 'views', 5),
        (lambda: dict(dataset=replayed(views.noise_images(11))), 'length', 11),
        (lambda: dict(dataset=replayed(views.noise_images(content=1))), 'samples', None),
        (lambda: dict(row=RowFormat(LogitCodec(100, dtype='float32'))),
         'format.scores.dtype', 'float32'),
        (lambda: dict(row=RowFormat(LogitCodec(300, top=20))), 'format.scores.columns', 300),
        (lambda: dict(row=RowFormat(LogitCodec(100), {'neck': (64,)})),
         'format.features.neck', [64]),
        (lambda: dict(other_teachers=['ef' * 32]), 'other_teachers', ['ef' * 32]),
    ],
)  # fmt: skip
def test_manifest_of_another_run_names_the_key_and_both_values(
    changes: Any, key: str, found: Any
) -> None:
    saved = json.loads(json.dumps(made()))
    with pytest.raises(ConfigError) as caught:
        require_same_manifest(saved, made(**changes()))
    error = caught.value
    assert error.key == key and error.fix and 'another path' in error.fix
    assert found is None or error.found == repr(found)
    stored: Any = saved
    for part in key.replace('[', '.').replace(']', '').split('.'):
        stored = stored[int(part)] if isinstance(stored, list) else stored.get(part, 'nothing')
    assert str(stored)[:20] in error.problem


@pytest.mark.parametrize('package', ['numpy', 'opencv', 'Pillow', 'torch', 'mmcv'])
def test_manifest_of_another_version_names_the_package(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = json.loads(json.dumps(made()))
    present = saved['versions'][package]
    assert present and present[0].isdigit()
    monkeypatch.setattr(manifest, 'versions', lambda: {**versions(), package: '0.1'})
    with raises_config_error(f'versions.{package}', '0.1', present, fix='Install'):
        require_same_manifest(saved, made())


def test_version_of_a_package_that_is_not_installed_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manifest, 'has', lambda name: name != 'cv2')
    assert [name for name, version in versions().items() if version is None] == ['opencv']


def test_manifest_that_lacks_a_key_or_has_one_more_names_it() -> None:
    saved = json.loads(json.dumps(made()))
    for key in saved:
        with raises_config_error(key, fix=''):
            require_same_manifest({name: saved[name] for name in saved if name != key}, made())
    with raises_config_error('more', None, "'x'"):
        require_same_manifest({**saved, 'more': 'x'}, {**made(), 'more': None})


@pytest.mark.parametrize('name', ['seed', 'views'])
def test_open_with_another_manifest_is_an_error(name: str, tmp_path: Path) -> None:
    stores.opened(tmp_path)
    changed = {**copy.deepcopy(stores.MANIFEST), name: 10}
    with raises_config_error(name, 10, str(stores.MANIFEST[name]), fix=name):
        stores.opened(tmp_path, manifest=changed)


def test_open_with_another_pipeline_is_an_error(tmp_path: Path) -> None:
    stores.opened(tmp_path)
    changed = copy.deepcopy(stores.MANIFEST)
    changed['pipeline'][0]['prob'] = 0.1
    with raises_config_error('pipeline[0].prob', 0.1, '0.5'):
        stores.opened(tmp_path, manifest=changed)


# Configs


@pytest.mark.parametrize(
    ('config', 'expected'),
    [
        (dict(b=1, a=2), dict(a=2, b=1)),
        ((1, (2.5, None)), [1, [2.5, None]]),
        (dict(data_root='/x', ann_file='y', backend_args=None, type='T'), dict(type='T')),
        ({3, 1, 2}, [1, 2, 3]),
        (np.array([1, 2]), [1, 2]),
        (np.float64(0.5), 0.5),
        (dict(type=TinyImages), dict(type='helpers.classification.TinyImages')),
        (Config(dict(a=dict(b=(1, 2)))).a, dict(b=[1, 2])),
        ({1: 'x'}, {'1': 'x'}),
    ],
)
def test_config_becomes_sorted_json(config: Any, expected: Any) -> None:
    assert normalised(config) == expected
    assert json.dumps(normalised(config)) == json.dumps(expected)


@pytest.mark.parametrize('wrapped', [True, False])
def test_manifest_has_the_pipeline_inside_the_replayed_data_set(wrapped: bool) -> None:
    config = views.noise_images()
    given = dict(type='mmkd_plugin.ReplayedDataset', dataset=config, views=9) if wrapped else config
    assert made(pipeline=given)['pipeline'] == normalised(config)


# Samples


def test_samples_are_known_by_their_content_wherever_they_are(tmp_path: Path) -> None:
    hashes = []
    for name, count in (('a', 4), ('b', 4), ('c', 5)):
        config = coco_files.dataset(coco_files.write(tmp_path / name, count))
        hashes.append(samples_hash(replayed({**config, '_scope_': 'mmdet'})))
    assert hashes[0] == hashes[1] != hashes[2]


def test_samples_of_a_data_set_without_annotations_are_drawn() -> None:
    one, same, other = (samples_hash(replayed(TinyImages(8, seed=seed))) for seed in (0, 0, 1))
    assert one == same != other


def test_samples_of_a_large_data_set_are_read_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, '_MOST_SAMPLES', 5)
    dataset = replayed()
    read: list[int] = []
    real = dataset.dataset.get_data_info
    monkeypatch.setattr(
        dataset.dataset, 'get_data_info', lambda index: (read.append(index), real(index))[1]
    )
    samples_hash(dataset)
    assert read == [0, 2, 4, 7, 9]


def test_format_in_a_manifest_is_the_description_of_the_row() -> None:
    assert made()['format'] == describe(RowFormat(LogitCodec(100)))
