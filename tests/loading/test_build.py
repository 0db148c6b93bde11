from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from mmengine.registry import DefaultScope
from torch import nn

from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.models.distillers import Distiller


def built(model: Any, **options: Any) -> nn.Module:
    return build_network(network_config(model, 'student', **options), 'student')


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A config file, as a user writes it."""
    path = tmp_path / 'net.py'
    path.write_text(
        f'model = {tiny.classifier()!r}\ndata_preprocessor = dict(num_classes=4, mean=[1.0, 2.0, 3.0], std=[4.0] * 3)\n'
        "default_scope = 'mmpretrain'\n"
    )
    return str(path)


def test_a_dict_and_a_file_give_the_same_network(file: str) -> None:
    one, other = built(tiny.classifier()), built(file)
    assert type(one).__name__ == type(other).__name__ == 'ImageClassifier'
    assert {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
    assert type(one.backbone).__name__ == 'CifarResNet'


def test_the_preprocessor_is_the_models_then_the_files_then_the_runs(file: str) -> None:
    run = dict(type='ClsDataPreprocessor', mean=[9.0] * 3, std=[1.0] * 3)
    own = dict(type='ClsDataPreprocessor', mean=[7.0] * 3, std=[1.0] * 3)
    means = [
        built(tiny.classifier(data_preprocessor=own), data_preprocessor=run).data_preprocessor.mean,
        built(file, data_preprocessor=run).data_preprocessor.mean,
        built(tiny.classifier(), data_preprocessor=run).data_preprocessor.mean,
    ]
    assert [mean.flatten().tolist() for mean in means] == [[7.0] * 3, [1.0, 2.0, 3.0], [9.0] * 3]


def test_a_config_of_an_installed_package() -> None:
    model = built(
        'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
        cfg_options={
            'model.head.num_classes': 4,
            'model.backbone.base_channels': 8,
            'model.head.in_channels': 64,
        },
    )
    assert model.head.fc.weight.shape == (4, 64)
    assert model.backbone.conv1.out_channels == 64
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        [125.307, 122.961, 113.8575]
    )


def test_options_change_a_dict_too() -> None:
    config = tiny.classifier()
    assert built(config, cfg_options={'model.head.num_classes': 9}).head.fc.out_features == 9
    assert config == tiny.classifier(), 'the given dict stays as it is'


def test_a_distillation_config_stands_for_its_student(tmp_path: Path) -> None:
    path = tmp_path / 'kd.py'
    config = dict(
        type='mmkd_plugin.Distiller',
        student=tiny.classifier(),
        cfg_options={'model.head.num_classes': 5},
        teachers=[dict(model='nowhere', checkpoint='nowhere')],
        methods=dict(kd=dict(type='SoftTarget')),
    )
    path.write_text(
        f"model = {config!r}\ndata_preprocessor = dict(mean=[3.0] * 3, std=[1.0] * 3)\ndefault_scope = 'mmpretrain'\n"
    )
    model = built(str(path))
    assert type(model).__name__ == 'ImageClassifier'
    assert model.head.fc.out_features == 5
    assert model.data_preprocessor.mean.flatten().tolist() == [3.0] * 3


def test_the_run_has_its_say_before_a_student_that_a_path_names(tmp_path: Path) -> None:
    """As in training: the Distiller asks the same function."""
    own = dict(mean=[9.0] * 3, std=[1.0] * 3)
    student = tmp_path / 'student.py'
    student.write_text(
        f"model = {tiny.classifier()!r}\nmodel['data_preprocessor'] = {own!r}\ndefault_scope = 'mmpretrain'\n"
    )
    config = dict(type='mmkd_plugin.Distiller', student=str(student))
    assert built(config).data_preprocessor.mean.flatten().tolist() == [9.0] * 3
    config['data_preprocessor'] = dict(mean=[3.0] * 3, std=[1.0] * 3)
    assert built(config).data_preprocessor.mean.flatten().tolist() == [3.0] * 3
    nothing = dict(kd=dict(type='SoftTarget', loss_weight=0.0))
    trained = Distiller(
        str(student),
        [dict(model='nowhere', checkpoint='nowhere')],
        nothing,
        data_preprocessor=config['data_preprocessor'],
    )
    assert trained.data_preprocessor.mean.flatten().tolist() == [3.0] * 3


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmengine', 'mmkd_plugin'])
def test_types_are_found_as_in_their_own_framework_whatever_the_runs_scope(scope: str) -> None:
    DefaultScope.get_instance(f'test_{scope}', scope_name=scope)
    assert type(built(tiny.classifier())).__module__.startswith('mmpretrain.')
    detector = built(
        'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
        cfg_options={'model.backbone.init_cfg': None},
    )
    assert type(detector).__module__.startswith('mmdet.')
    assert type(detector.backbone).__module__.startswith('mmdet.')
    assert DefaultScope.get_current_instance().scope_name == scope


def test_a_prefix_names_the_framework_of_the_whole_network() -> None:
    DefaultScope.get_instance('prefix', scope_name='mmdet')
    assert (
        type(built({**tiny.classifier(), 'type': 'mmpretrain.ImageClassifier'}).head).__name__
        == 'LinearClsHead'
    )


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (3, r"^student: expected a model dict, a config path or 'pkg::path', got int"),
        ({}, r'^student: expected a model with a "type", got \{\}'),
        ('none.py', r'^student: expected a config file, found none at none.py'),
        (
            'mmnone::a.py',
            r"^student: expected an installed package before \"::\", got 'mmnone::a.py'",
        ),
        ('mmpretrain::none.py', r"^student: expected a config of mmpretrain, found no 'none.py'"),
        (
            dict(type='NoSuchNet'),
            r'^student: expected a model that its framework can build, got NoSuchNet is not in',
        ),
        (
            tiny.classifier(depth=9),
            r'^student: expected a model that its framework can build, got CifarResNet.depth: expected 6n',
        ),
        (
            tiny.classifier(unknown=1),
            r"^student: expected a model .* unexpected keyword argument 'unknown'",
        ),
    ],
)
def test_a_model_that_is_none_is_named(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(model)


def test_a_file_without_a_model(tmp_path: Path) -> None:
    (tmp_path / 'a.py').write_text('epochs = 3\n')
    with pytest.raises(ValueError, match=r'^student: expected a model with a "type", got None'):
        built(str(tmp_path / 'a.py'))


def test_building_draws_the_random_numbers_of_the_host_alone() -> None:
    torch.manual_seed(1)
    one = built(tiny.classifier())
    torch.manual_seed(1)
    other = built(tiny.classifier())
    assert torch.equal(one.backbone.conv1.weight, other.backbone.conv1.weight)
