"""Loaded networks: their own weights, their own preprocessing, frozen."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.analysis import checkpoint_of, config_of
from helpers.errors import raises_config_error
from mmengine.config import Config
from torch import Tensor

from mmkd_plugin.adapters import Adapter
from mmkd_plugin.analysis.images import Images
from mmkd_plugin.analysis.loaded import load_networks
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.analysis.parts import DistilledNetworks, load_distilled
from mmkd_plugin.loading.export import export_student


def scores_of(network: LoadedNetwork, raw: Any) -> Tensor:
    network.request_scores()
    return network.scores(network.inputs(raw))


def test_load_distilled_gives_every_network_its_weights_and_freezes_it(
    networks: DistilledNetworks, checkpoint: str, cfg: Config
) -> None:
    saved = torch.load(checkpoint, weights_only=True)['state_dict']
    for name, value in networks.student.model.state_dict().items():
        assert torch.equal(value, saved[f'student.{name}'])
    own = torch.load(cfg.model.teachers[0].checkpoint, weights_only=True)['state_dict']
    for name, value in networks.teachers[0].model.state_dict().items():
        assert torch.equal(value, own[name])
    assert [network.name for network in networks.all] == ['t0', 'student']
    for network in networks.all:
        assert not network.model.training
        assert not any(weights.requires_grad for weights in network.model.parameters())


def test_inputs_with_other_preprocessing_differ_and_the_raw_batch_stays(
    tmp_path: Path, images: Images
) -> None:
    cfg = config_of(tmp_path)
    own = dict(tiny.preprocessor(), mean=[0.0] * 3, std=[255.0] * 3)
    cfg.model.teachers[0].data_preprocessor = own
    networks = load_distilled(cfg, checkpoint_of(cfg, tmp_path))
    raw = images.batches[0]
    pixels = torch.stack(raw['inputs']).float()
    torch.testing.assert_close(networks.student.inputs(raw), (pixels - 120) / 60)
    torch.testing.assert_close(networks.teachers[0].inputs(raw), pixels / 255)
    assert torch.equal(torch.stack(raw['inputs']).float(), pixels)
    labels = [int(sample.gt_label) for sample in raw['data_samples']]
    assert networks.student.labels(raw).tolist() == labels


@pytest.fixture
def against(cfg: Config, checkpoint: str, tmp_path: Path) -> list[tuple[str, ...]]:
    """A plain network, a run's student, and the same student exported."""
    alone = dict(
        model=tiny.classifier(), default_scope='mmpretrain', data_preprocessor=tiny.preprocessor()
    )
    Config(alone).dump(tmp_path / 'alone.py')
    cfg.dump(tmp_path / 'distilled.json')
    export_student(checkpoint, tmp_path / 'student.pth')
    return [
        (str(tmp_path / 'alone.py'), tiny.checkpoint(tmp_path, seed=5)),
        (str(tmp_path / 'distilled.json'), checkpoint),
        (str(tmp_path / 'distilled.json'), str(tmp_path / 'student.pth'), 'exported'),
    ]


def test_load_networks_against_plain_configs_and_distillations_loads_their_networks(
    cfg: Config, checkpoint: str, against: list[tuple[str, ...]]
) -> None:
    networks = load_networks(cfg, checkpoint, against)
    names = ['t0', 'alone', 'distilled', 'exported', 'student']
    assert [network.name for network in networks.all] == names
    raw = tiny.batch_of(4)
    scores = [scores_of(network, raw) for network in networks.all]
    torch.testing.assert_close(scores[2], scores[4])
    torch.testing.assert_close(scores[3], scores[4])
    assert not torch.allclose(scores[1], scores[4])


def test_load_networks_against_something_wrong_raises(
    cfg: Config, checkpoint: str, against: list[tuple[str, ...]]
) -> None:
    with raises_config_error('--against', 'student', fix='CONFIG CHECKPOINT NAME'):
        load_networks(cfg, checkpoint, [(*against[0], 'student')])
    with raises_config_error('--against', 'only.py', 'CONFIG CHECKPOINT'):
        load_networks(cfg, checkpoint, [('only.py',)])
    with raises_config_error('--against.checkpoint', 'nowhere.pth'):
        load_networks(cfg, checkpoint, [(against[0][0], 'nowhere.pth')])


def test_load_networks_of_a_teacher_with_the_students_name_raises(
    cfg: Config, checkpoint: str
) -> None:
    cfg.model.teachers[0].name = 'student'
    with raises_config_error('teachers', 'student', fix='another name'):
        load_networks(cfg, checkpoint)


def test_load_distilled_of_a_plain_config_raises(checkpoint: str) -> None:
    with raises_config_error(
        'config', 'ImageClassifier', 'mmkd_plugin.Distiller', fix='--against CONFIG CHECKPOINT'
    ):
        load_distilled(Config(dict(model=tiny.classifier())), checkpoint)


@pytest.mark.parametrize('method', ['IEKD', 'SoftTarget'])
def test_load_distilled_with_an_exported_student_raises(tmp_path: Path, method: str) -> None:
    methods = {} if method == 'IEKD' else dict(kd=dict(type='SoftTarget'))
    cfg = config_of(tmp_path, **methods)
    exported = str(export_student(checkpoint_of(cfg, tmp_path), tmp_path / 'student.pth'))
    with raises_config_error('checkpoint', exported, 'exported student'):
        load_distilled(cfg, exported)


def test_load_distilled_with_another_file_of_a_teacher_raises(
    cfg: Config, checkpoint: str, tmp_path: Path
) -> None:
    began = load_networks(cfg, checkpoint).teachers[0].sha256
    cfg.model.teachers[0].checkpoint = tiny.checkpoint(
        tmp_path, tiny.classifier(base_channels=6), seed=8
    )
    other = load_networks(cfg, checkpoint).teachers[0].sha256
    with raises_config_error('teachers[0].checkpoint', other, str(began), fix='file of the run'):
        load_distilled(cfg, checkpoint)


def test_request_scores_of_a_model_without_known_scores_raises(networks: DistilledNetworks) -> None:
    networks.student.adapter = Adapter()
    with raises_config_error('student', 'ImageClassifier', fix='cka and active'):
        networks.student.request_scores()


def test_labels_of_a_batch_without_them_raises(networks: DistilledNetworks) -> None:
    with raises_config_error('--split', fix='need no labels'):
        networks.student.labels(tiny.batch_of(4, labels=False))


def test_scores_with_a_class_map_are_those_of_the_datas_classes(plain: LoadedNetwork) -> None:
    mapped = LoadedNetwork('mapped', plain.model, class_map=[2, 0, 3, 1])
    raw = tiny.batch_of(4)
    torch.testing.assert_close(scores_of(mapped, raw), scores_of(plain, raw)[:, [2, 0, 3, 1]])
