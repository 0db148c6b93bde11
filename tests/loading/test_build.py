import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.registry import DefaultScope
from torch import nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.registry import MODELS


def built(model: Any, **options: Any) -> nn.Module:
    return build_network(network_config(model, 'student', **options), 'student')


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A config file, as a user writes it."""
    path = tmp_path / 'net.py'
    path.write_text(
        f'model = {tiny.classifier()!r}\n'
        'data_preprocessor = dict(num_classes=4, mean=[1.0, 2.0, 3.0], std=[4.0] * 3)\n'
        "default_scope = 'mmpretrain'\n"
    )
    return str(path)


def test_a_dict_and_a_file_build_the_same_network(file: str) -> None:
    one, other = built(tiny.classifier()), built(file)
    assert type(one).__name__ == type(other).__name__ == 'ImageClassifier'
    assert {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
    assert type(one.backbone).__name__ == 'CifarResNet'


def test_the_data_preprocessor_is_the_models_then_the_files_then_the_runs(file: str) -> None:
    run = dict(type='ClsDataPreprocessor', mean=[9.0] * 3, std=[1.0] * 3)
    own = dict(type='ClsDataPreprocessor', mean=[7.0] * 3, std=[1.0] * 3)
    means = [
        built(tiny.classifier(data_preprocessor=own), data_preprocessor=run).data_preprocessor.mean,
        built(file, data_preprocessor=run).data_preprocessor.mean,
        built(tiny.classifier(), data_preprocessor=run).data_preprocessor.mean,
    ]
    assert [mean.flatten().tolist() for mean in means] == [[7.0] * 3, [1.0, 2.0, 3.0], [9.0] * 3]


def test_a_config_of_an_installed_package_is_built() -> None:
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


def test_cfg_options_change_a_copy_of_a_dict() -> None:
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
        f'model = {config!r}\n'
        'data_preprocessor = dict(mean=[3.0] * 3, std=[1.0] * 3)\n'
        "default_scope = 'mmpretrain'\n"
    )
    model = built(str(path))
    assert type(model).__name__ == 'ImageClassifier'
    assert model.head.fc.out_features == 5
    assert model.data_preprocessor.mean.flatten().tolist() == [3.0] * 3


def test_a_new_style_config_with_classes_stands_for_its_student(tmp_path: Path) -> None:
    path = tmp_path / 'kd.py'
    path.write_text(
        'from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead\n'
        'from mmkd_plugin.models.backbones import CifarResNet\n'
        'from mmkd_plugin.models.distillers import Distiller\n'
        'student = dict(\n'
        '    type=ImageClassifier,\n'
        '    backbone=dict(type=CifarResNet, depth=8, base_channels=4),\n'
        '    neck=dict(type=GlobalAveragePooling),\n'
        '    head=dict(type=LinearClsHead, num_classes=5, in_channels=16))\n'
        'model = dict(type=Distiller, student=student, teachers=[], methods=dict())\n'
        'data_preprocessor = dict(mean=[3.0] * 3, std=[1.0] * 3)\n'
    )
    model = built(str(path))
    assert type(model).__name__ == 'ImageClassifier'
    assert model.head.fc.out_features == 5
    assert model.data_preprocessor.mean.flatten().tolist() == [3.0] * 3


def test_the_runs_data_preprocessor_replaces_that_of_a_student_given_by_path(
    tmp_path: Path,
) -> None:
    """The Distiller calls the same function."""
    own = dict(mean=[9.0] * 3, std=[1.0] * 3)
    student = tmp_path / 'student.py'
    student.write_text(
        f'model = {tiny.classifier()!r}\n'
        f"model['data_preprocessor'] = {own!r}\n"
        "default_scope = 'mmpretrain'\n"
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
    ('model', 'key', 'found', 'mentions', 'fix'),
    [
        (3, 'student', 3, "'pkg::path'", None),
        ({}, 'student', {}, 'a "type"', None),
        ('none.py', 'student', 'none.py', 'config file', 'Relative paths begin at'),
        ('mmsegg::a/b.py', 'student', 'mmsegg::a/b.py', "'mmsegg', which is not", "'mmseg'"),
        ('mmaction::a/b.py', 'student', 'mmaction::a/b.py', 'not installed', 'install mmaction2'),
        ('mmpretrain::none.py', 'student', 'mmpretrain::none.py', 'no config of mmpretrain', '.py'),
        (
            'mmpretrain::resnet/resnet18_8xb16_cifar.py',
            'student',
            'mmpretrain::resnet/resnet18_8xb16_cifar.py',
            'no config of mmpretrain',
            "'resnet/resnet18_8xb16_cifar10.py'",
        ),
        ('torch::a/b.py', 'student', 'torch::a/b.py', "'torch' ships no configs", None),
        (dict(type='ImageClasifier'), 'student.type', 'ImageClasifier', '', "'ImageClassifier'"),
        (
            {**tiny.classifier(), 'neck': dict(type='GlobalAveragePool')},
            'student.neck.type',
            'GlobalAveragePool',
            'not registered in mmpretrain',
            "'GlobalAveragePooling'",
        ),
        (
            {**tiny.classifier(), 'neck': dict(type='mmkd_plugin.CifarResnet')},
            'student.neck.type',
            'mmkd_plugin.CifarResnet',
            'not registered in mmkd_plugin',
            "'CifarResNet'",
        ),
    ],
)
def test_a_wrong_model_is_refused_with_its_key_and_a_remedy(
    model: Any, key: str, found: Any, mentions: str, fix: str | None
) -> None:
    with raises_config_error(key, found, mentions, fix=fix):
        built(model)


def test_a_framework_that_refuses_a_model_is_quoted() -> None:
    words = "unexpected keyword argument 'unknown'"
    with raises_config_error('student', 'ImageClassifier', words):
        built(tiny.classifier(unknown=1))


@MODELS.register_module(force=True)
class Refusing(nn.Module):
    """A network that has an error of its own for its config."""

    def __init__(self, depth: int = 0, file: str = '') -> None:
        super().__init__()
        if file:
            Path(file).read_text()
        raise ConfigError('depth', 'must be 6n + 2', 'Use 8.', found=depth)


def test_an_error_about_a_networks_own_key_is_put_under_the_key_of_the_model() -> None:
    with raises_config_error('student.depth', 9, fix='Use 8.'):
        built(dict(type='mmkd_plugin.Refusing', depth=9))


def test_a_file_that_a_config_needs_and_that_is_missing_is_named_with_the_config(
    tmp_path: Path,
) -> None:
    path = tmp_path / 'a.py'
    path.write_text("model = dict(type='mmkd_plugin.Refusing', file='data/answers.json')\n")
    with raises_config_error(
        'student.file', 'data/answers.json', str(path), fix="cfg_options={'model.file'"
    ):
        built(str(path))
    (tmp_path / 'b.py').write_text(f"model = dict(type='mmkd_plugin.Distiller', student='{path}')")
    with raises_config_error('student.file', 'data/answers.json', str(path)):
        built(str(tmp_path / 'b.py'))


@pytest.mark.filterwarnings('ignore::ResourceWarning')
def test_a_config_whose_base_is_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'a.py'
    path.write_text("_base_ = 'none.py'\n")
    with raises_config_error('student', str(path), 'none.py'):
        built(str(path))
    gc.collect()  # MMEngine leaves its copy of such a config open


def test_a_config_file_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'a.py').write_text('epochs = 3\n')
    with raises_config_error('student', None, 'a "type"', 'a.py'):
        built(str(tmp_path / 'a.py'))


def test_building_draws_only_the_random_numbers_of_the_framework() -> None:
    torch.manual_seed(1)
    one = built(tiny.classifier())
    torch.manual_seed(1)
    other = built(tiny.classifier())
    assert torch.equal(one.backbone.conv1.weight, other.backbone.conv1.weight)
