"""Detectors beside each other: own weights, own preprocessing, and the classes of the data."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
import torch
from helpers import classification as tiny
from helpers import coco_files
from helpers import detection as small
from helpers.errors import raises_config_error
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmkd_plugin.analysis import detections
from mmkd_plugin.analysis.detection_picture import Panels, Picture
from mmkd_plugin.analysis.detections import TRUTH, compare_detections
from mmkd_plugin.analysis.images import build_dataset
from mmkd_plugin.loading.export import export_student

OTHER_INPUT = dict(
    type='DetDataPreprocessor',
    mean=[90.0] * 3,
    std=[40.0] * 3,
    bgr_to_rgb=False,
    pad_size_divisor=64,
)
Rows = list[Mapping[str, Any]]


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coco_files.write(tmp_path_factory.mktemp('data'))


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Boxes that would be drawn, a dict an image; pictures of one colour replace the panels."""
    seen: Rows = []

    def row(self: Panels, image: Picture, found: Mapping[str, Any]) -> Picture:
        seen.append(found)
        return np.full((2, 3, 3), len(seen), dtype=np.uint8)

    monkeypatch.setattr(Panels, 'row', row)
    return seen


def config_of(model: Any, data: Path) -> Config:
    loader = dict(dataset=coco_files.dataset(data, training=False))
    return Config(dict(model=model, default_scope='mmdet', test_dataloader=loader))


def gfl(**options: Any) -> Any:
    return small.detector('gfl', test_cfg__max_per_img=5, **options)


def save(network: nn.Module, path: Path, classes: tuple[str, ...] | None = None) -> str:
    meta = {} if classes is None else dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=network.state_dict(), meta=meta), path)
    return str(path)


def distilled(folder: Path, data: Path, **teacher: Any) -> tuple[Config, str]:
    """Return a config whose teacher has its own preprocessing, and the checkpoint of its run."""
    taught_by = small.teacher(folder, gfl(), seed=1, data_preprocessor=OTHER_INPUT, **teacher)
    methods = dict(hint=dict(type='Hint', pairs=[dict(student='neck[0]', teacher='neck[0]')]))
    model = dict(type='mmkd_plugin.Distiller', student=gfl(), teachers=[taught_by], methods=methods)
    built: Any = ROOT_MODELS.build(copy.deepcopy(model))
    small.varied(built.student, 3)
    return config_of(model, data), save(built, folder / 'run.pth')


def boxes_of(config: Any, seed: int, data: Path, index: int = 0) -> Tensor:
    """Predict with the bare network: boxes, label and score, (n, 6)."""
    network: Any = small.network(config, seed).eval()
    with torch.no_grad(), DefaultScope.overwrite_default_scope('mmdet'):
        dataset = build_dataset(config_of(config, data).test_dataloader.dataset)
        [sample] = network.test_step(pseudo_collate([dataset[index]]))
    return flat(sample.pred_instances)


def flat(found: Any) -> Tensor:
    return torch.cat([found.bboxes, found.labels[:, None], found.scores[:, None]], dim=1)


@pytest.mark.slow
def test_compare_detections_draws_what_each_network_predicts_alone(
    tmp_path: Path, data: Path, rows: Rows
) -> None:
    cfg, run = distilled(tmp_path, data)
    Config(dict(model=gfl())).dump(tmp_path / 'alone.py')
    other = [str(tmp_path / 'alone.py'), small.checkpoint(tmp_path, gfl(), 2)]
    paths = compare_detections(cfg, run, [other], out=tmp_path / 'out', images=2)
    assert [path.name for path in paths] == ['000_000000.png', '001_000001.png', 'sheet.png']
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {path.name for path in paths}
    for index, found in enumerate(rows):
        assert list(found) == [TRUTH, 'alone', 'student', 't1']
        for name, config, seed in (
            ('alone', gfl(), 2),
            ('student', gfl(), 3),
            ('t1', {**gfl(), 'data_preprocessor': OTHER_INPUT}, 1),
        ):
            expected = boxes_of(config, seed, data, index)
            assert len(expected) > 0
            torch.testing.assert_close(flat(found[name]), expected)
    pictures = [mmcv.imread(str(path)) for path in paths]
    assert [picture.max() for picture in pictures] == [1, 2, 2]
    np.testing.assert_array_equal(np.concatenate(pictures[:2]), pictures[2])


@pytest.mark.slow
def test_compare_detections_takes_the_truth_from_the_data_set_if_the_pipeline_loads_none(
    tmp_path: Path, data: Path, rows: Rows
) -> None:
    cfg = config_of(gfl(), data)
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = [step for step in dataset.pipeline if step.type != 'LoadAnnotations']
    dataset.pipeline[1].scale = (128, 128)  # boxes are drawn on the file, whatever the input size
    compare_detections(
        cfg, small.checkpoint(tmp_path, gfl()), out=tmp_path, name='net', indices=[3, 1]
    )
    empty, one = rows
    assert len(empty[TRUTH].bboxes) == 0 and len(empty[TRUTH].labels) == 0
    left, top, right, bottom = one[TRUTH].bboxes[0].int().tolist()
    picture = mmcv.imread(str(data / 'images/000001.jpg'), channel_order='rgb')
    assert picture[top + 3 : bottom - 3, left + 3 : right - 3, 1].min() > 200, (
        'the box is on the bright square'
    )
    assert one[TRUTH].labels.tolist() == [1]
    assert one['net'].bboxes.max() <= coco_files.SIDE


def test_true_boxes_leave_out_crowds() -> None:
    box = dict(bbox=[1.0, 2.0, 3.0, 4.0], bbox_label=2)
    found = detections.true_boxes(
        dict(instances=[dict(box, ignore_flag=1), dict(box, ignore_flag=0), box])
    )
    assert (found.bboxes.tolist(), found.labels.tolist()) == ([[1.0, 2.0, 3.0, 4.0]] * 2, [2, 2])


@pytest.mark.slow
def test_compare_detections_of_an_exported_student_without_its_teacher(
    tmp_path: Path, data: Path, rows: Rows
) -> None:
    cfg, run = distilled(tmp_path, data)
    cfg.model.teachers[0].checkpoint = 'nowhere.pth'
    student = export_student(run, tmp_path / 'student.pth')
    compare_detections(cfg, str(student), out=tmp_path, without=['t1'], images=1)
    assert list(rows[0]) == [TRUTH, 'student']
    torch.testing.assert_close(flat(rows[0]['student']), boxes_of(gfl(), 3, data))


@pytest.mark.slow
def test_compare_detections_shows_a_teacher_with_a_class_map_in_the_datas_classes(
    tmp_path: Path, data: Path, rows: Rows
) -> None:
    cfg, run = distilled(tmp_path, data, class_map=[2, 0, 1])
    compare_detections(cfg, run, out=tmp_path, images=1)
    alone = boxes_of({**gfl(), 'data_preprocessor': OTHER_INPUT}, 1, data)
    expected = alone[:, 4].apply_(lambda label: [2, 0, 1].index(int(label)))
    torch.testing.assert_close(rows[0]['t1'].labels.float(), expected)


@pytest.mark.slow
def test_compare_detections_of_mutual_learning_draws_all_peers(
    tmp_path: Path, data: Path, rows: Rows
) -> None:
    methods = dict(hint=dict(type='Hint', pairs=[dict(student='neck[0]', teacher='neck[0]')]))
    peers = [dict(name=name, model=gfl()) for name in ('a', 'b')]
    model = dict(type='mmkd_plugin.MutualDistiller', peers=peers, methods=methods)
    built: Any = ROOT_MODELS.build(copy.deepcopy(model))
    for seed, name in enumerate('ab'):
        small.varied(built.network(name), seed)
    cfg = config_of(model, data)
    compare_detections(cfg, save(built, tmp_path / 'run.pth'), out=tmp_path, images=1)
    assert list(rows[0]) == [TRUTH, 'a', 'b']
    for seed, name in enumerate('ab'):
        torch.testing.assert_close(flat(rows[0][name]), boxes_of(gfl(), seed, data))
    alone = small.checkpoint(tmp_path, gfl())
    with raises_config_error('checkpoint', alone, 'all peers'):
        compare_detections(cfg, alone, out=tmp_path)


@pytest.fixture
def compare(tmp_path: Path, data: Path) -> Callable[..., list[Path]]:
    checkpoint = small.checkpoint(tmp_path, gfl())

    def compare(*against: list[str], **changes: Any) -> list[Path]:
        return compare_detections(
            config_of(gfl(), data),
            checkpoint,
            against,
            **dict(out=tmp_path / 'out', name='net') | changes,
        )

    return compare


@pytest.mark.parametrize(
    ('changes', 'key', 'found'),
    [
        (dict(images=0), '--images', 0),
        (dict(score_thr=30), '--score-thr', 30),
        (dict(split='val'), '--split', 'val'),
        (dict(indices=[0, 4]), '--indices', [0, 4]),
        (dict(device='nowhere'), '--device', 'nowhere'),
        (dict(without=['t7']), '--without', 't7'),
        (dict(without=['net']), '--without', ['net']),
    ],
    ids=str,
)
def test_compare_detections_of_an_argument_out_of_bounds_raises(
    compare: Callable[..., list[Path]],
    tmp_path: Path,
    changes: dict[str, Any],
    key: str,
    found: Any,
) -> None:
    with raises_config_error(key, found):
        compare(**changes)
    assert not (tmp_path / 'out').exists()


def test_compare_detections_into_a_file_raises(
    compare: Callable[..., list[Path]], tmp_path: Path
) -> None:
    (tmp_path / 'file').touch()
    with raises_config_error('--out', str(tmp_path / 'file')):
        compare(out=tmp_path / 'file')


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., list[str]]:
    """Saves a network, and returns config, checkpoint and name for ``against``."""

    def given(
        model: Any, network: nn.Module, name: str, classes: tuple[str, ...] | None = None
    ) -> list[str]:
        config = tmp_path / f'{name}.py'
        Config(dict(model=model)).dump(config)
        return [str(config), save(network, tmp_path / f'{name}.pth', classes), name]

    return given


def test_compare_detections_against_files_or_names_that_do_not_fit_raises(
    compare: Callable[..., list[Path]], given: Callable[..., list[str]]
) -> None:
    same = given(gfl(), small.network(gfl()), 'net')
    with raises_config_error('--against', 'net', fix='CONFIG CHECKPOINT NAME'):
        compare(same)
    with raises_config_error('--against', same[0], 'CONFIG CHECKPOINT'):
        compare(same[:1])
    with raises_config_error('--against', 'nowhere.py'):
        compare(['nowhere.py', 'x.pth'])
    with raises_config_error('--against.checkpoint', 'nowhere.pth'):
        compare([same[0], 'nowhere.pth', 'b'])


@pytest.mark.slow
def test_compare_detections_of_other_classes_or_no_detector_raises(
    compare: Callable[..., list[Path]], given: Callable[..., list[str]]
) -> None:
    two = gfl(bbox_head__num_classes=2)
    with raises_config_error('two', 2, 'the 3 classes', 'red, green, blue', fix='--without two'):
        compare(given(two, small.network(two), 'two'))
    other = ('green', 'red', 'blue')
    with raises_config_error('swapped', list(other), 'red, green, blue', fix='--without swapped'):
        compare(given(gfl(), small.network(gfl()), 'swapped', other))
    classifier = tiny.classifier()
    with raises_config_error('labels', 'ImageClassifier', 'detector'):
        compare(given(classifier, tiny.network(classifier), 'labels'))
