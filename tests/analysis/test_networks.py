from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.analysis import config_of
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

from mmkd_plugin.adapters import Host
from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.analysis.images import Images
from mmkd_plugin.analysis.networks import Network, Networks, load_networks
from mmkd_plugin.loading.student import export_student


def scores_of(network: Network, raw: Any) -> Tensor:
    return network.scores(FeatureTaps(network.model, network.require_scores()), network.inputs(raw))


def test_the_student_and_its_teachers_have_their_weights_and_stay_as_they_are(
    networks: Networks, checkpoint: str, cfg: Config
) -> None:
    saved = torch.load(checkpoint, weights_only=True)['state_dict']
    for name, value in networks.student.model.state_dict().items():
        assert torch.equal(value, saved[f'student.{name}'])
    taught_by = torch.load(cfg.model.teachers[0].checkpoint, weights_only=True)['state_dict']
    for name, value in networks.teachers[0].model.state_dict().items():
        assert torch.equal(value, taught_by[name])
    assert [network.name for network in networks.all] == ['t0', 'student']
    for network in networks.all:
        assert not network.model.training
        assert not any(weights.requires_grad for weights in network.model.parameters())


def test_each_network_sees_what_its_own_preprocessor_makes(tmp_path: Path, images: Images) -> None:
    cfg = config_of(tmp_path)
    cfg.model.teachers[0].data_preprocessor = dict(
        tiny.PREPROCESSOR, mean=[0.0] * 3, std=[255.0] * 3
    )
    state = ROOT_MODELS.build(cfg.model).state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    networks = load_networks(cfg, str(tmp_path / 'other.pth'))
    raw = images.batches[0]
    pixels = torch.stack(raw['inputs']).float()
    torch.testing.assert_close(networks.student.inputs(raw), (pixels - 120) / 60)
    torch.testing.assert_close(networks.teachers[0].inputs(raw), pixels / 255)
    assert networks.student.labels(raw).tolist() == [
        int(sample.gt_label) for sample in raw['data_samples']
    ]


def test_others_are_networks_of_any_config_or_students_of_distillations(
    cfg: Config, checkpoint: str, tmp_path: Path
) -> None:
    lines = f'model = {tiny.classifier()!r}\ndefault_scope = "mmpretrain"\ndata_preprocessor = {tiny.PREPROCESSOR!r}\n'
    (tmp_path / 'alone.py').write_text(lines)
    cfg.dump(tmp_path / 'distilled.json')
    export_student(checkpoint, tmp_path / 'student.pth')
    against = [
        (str(tmp_path / 'alone.py'), tiny.checkpoint(tmp_path, seed=5)),
        (str(tmp_path / 'distilled.json'), checkpoint),
        (str(tmp_path / 'distilled.json'), str(tmp_path / 'student.pth'), 'exported'),
    ]
    networks = load_networks(cfg, checkpoint, against)
    assert [other.name for other in networks.others] == ['alone', 'distilled', 'exported']
    assert [network.name for network in networks.all] == [
        't0',
        'alone',
        'distilled',
        'exported',
        'student',
    ]
    raw = tiny.batch_of(4)
    answers = [scores_of(network, raw) for network in networks.all]
    torch.testing.assert_close(answers[2], answers[4])
    torch.testing.assert_close(answers[3], answers[4])
    assert not torch.allclose(answers[1], answers[4])
    with pytest.raises(
        ValueError, match=r"^--against: expected a name of its own, got 'student' again"
    ):
        load_networks(cfg, checkpoint, [(*against[0], 'student')])
    with pytest.raises(
        ValueError, match=r'^--against: expected CONFIG CHECKPOINT and perhaps a NAME, got only.py$'
    ):
        load_networks(cfg, checkpoint, [('only.py',)])
    with pytest.raises(
        ValueError,
        match=r'^--against\.checkpoint: expected a checkpoint file or URL, found no file',
    ):
        load_networks(cfg, checkpoint, [(against[0][0], 'nowhere.pth')])


def test_what_trains_no_student_is_refused(checkpoint: str) -> None:
    with pytest.raises(
        ValueError, match=r"^config: expected one of mmkd_plugin\.Distiller, got 'ImageClassifier'"
    ):
        load_networks(Config(dict(model=tiny.classifier())), checkpoint)


def test_an_exported_student_is_not_enough(cfg: Config, checkpoint: str, tmp_path: Path) -> None:
    export_student(checkpoint, tmp_path / 'student.pth')
    with pytest.raises(ValueError, match=r'^checkpoint: expected the weights of this very model'):
        load_networks(cfg, str(tmp_path / 'student.pth'))


def test_a_network_without_class_scores_says_so(networks: Networks) -> None:
    unknown = replace(networks.student, host=Host())
    with pytest.raises(
        ValueError, match=r'^student: expected a classifier whose class scores are known'
    ):
        unknown.require_scores()
    with pytest.raises(ValueError, match=r'^--split: expected images with one label each'):
        networks.student.labels(tiny.batch_of(4, labels=False))
