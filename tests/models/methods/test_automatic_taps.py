"""Words in place of taps: 'stages', 'neck' and 'last'."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from mmkd_plugin.adapters.levels import LevelFinder, paired_levels
from mmkd_plugin.adapters.tapped_model import TappedModel

FAMILIES: dict[str, tuple[dict[str, Any], list[tuple[str, float]]]] = {
    'ResNet': (
        dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
        [(f'backbone.layer{n}', 2.0 ** (n + 1)) for n in (1, 2, 3, 4)],
    ),
    'MobileNetV2': (
        dict(type='MobileNetV2', widen_factor=0.25),
        [
            ('backbone.layer2', 4),
            ('backbone.layer3', 8),
            ('backbone.layer5', 16),
            ('backbone.conv2', 32),
        ],
    ),
    'Swin': (
        dict(type='SwinTransformer', arch='tiny', img_size=64),
        [(f'backbone.stages.{n}[0]', 2.0 ** (n + 2)) for n in range(4)],
    ),
    'ViT': (
        dict(type='VisionTransformer', arch='deit-t', img_size=32, patch_size=8),
        [(f'backbone.layers.{n}', 8) for n in (2, 5, 8, 11)],
    ),
    'ConvNeXt': (
        dict(type='ConvNeXt', arch='atto'),
        [(f'backbone.stages.{n}', 2.0 ** (n + 2)) for n in range(4)],
    ),
    'VGG': (
        dict(type='VGG', depth=11),
        [(f'backbone.features.{n}', stride) for n, stride in ((3, 2), (8, 4), (13, 8), (18, 16))],
    ),
}


def finder(backbone: dict[str, Any]) -> LevelFinder:
    init_default_scope('mmpretrain')
    config = dict(type='mmpretrain.ImageClassifier', backbone=backbone)
    return LevelFinder(TappedModel(tiny.network(config), 'net'))


@pytest.mark.parametrize('name', [n for n in FAMILIES if n != 'VGG'])
def test_stages_end_at_the_last_map_of_each_resolution(name: str) -> None:
    backbone, expected = FAMILIES[name]
    levels = finder(backbone).levels('stages')
    assert [(level.tap, level.stride) for level in levels] == expected
    assert finder(backbone).levels('last') == levels[-1:]


def test_networks_of_other_depth_are_paired_from_the_deepest() -> None:
    student = finder(dict(type='mmkd_plugin.CifarResNet', depth=8))
    pairs = paired_levels(student, finder(FAMILIES['ResNet'][0]), 'stages')
    assert [(a.tap, b.tap) for a, b in pairs] == [
        (f'backbone.layer{n}', f'backbone.layer{n + 1}') for n in (1, 2, 3)
    ]


def test_levels_of_detectors_are_paired_by_stride() -> None:
    init_default_scope('mmdet')
    gfl, faster = (
        LevelFinder(TappedModel(small.network(small.detector(family)), family))
        for family in ('gfl', 'faster_rcnn')
    )
    pairs = paired_levels(gfl, faster, 'neck')
    assert pairs and all(a.stride == b.stride for a, b in pairs)
    assert pairs[0][0].tap == 'neck[0]' and pairs[0][1].tap == 'neck[1]'


METHODS: dict[str, dict[str, Any]] = {
    'Hint': dict(type='Hint', pairs='stages'),
    'AttentionTransfer': dict(type='AttentionTransfer', pairs='stages'),
    'IEKD': dict(type='IEKD', knowledge='attention', pairs='last'),
    'FeatureMethod': dict(
        type='FeatureMethod',
        pairs='last',
        loss=dict(type='HintLoss'),
        connector=dict(type='HintRegressor'),
    ),
}


@pytest.mark.parametrize('name', METHODS)
def test_word_trains_as_the_taps_that_it_stands_for(name: str, tmp_path: Path) -> None:
    teachers = tiny.teachers(tmp_path)
    model = tiny.distiller(tmp_path, teachers=teachers, methods=dict(m=METHODS[name])).train()
    levels = (3,) if METHODS[name]['pairs'] == 'last' else (1, 2, 3)
    pairs = [
        dict(student=f'backbone.layer{n}', teacher=f'backbone.layer{n}', index=index)
        for index in range(2)
        for n in levels
    ]
    assert [dict(student=p.student, teacher=p.teacher, index=p.index) for p in model.methods.m.pairs
            ] == pairs  # fmt: skip
    stated = dict(m={**METHODS[name], 'pairs': pairs})
    other = tiny.distiller(tmp_path, teachers=teachers, methods=stated).train()
    other.load_state_dict(model.state_dict())
    for key, value in tiny.losses_of(model).items():
        assert value.item() == tiny.losses_of(other)[key].item() or 'gradient' in key


def test_groups_of_amtml_kd_are_the_stages(tmp_path: Path) -> None:
    amtml = tiny.amtml(student_groups='stages', mapping=[2, 1])
    del amtml['teacher_taps']
    model = tiny.distiller(tmp_path, methods=dict(a=amtml)).train()
    assert model.methods.a.hints.student_groups == tuple(f'backbone.layer{n}' for n in (1, 2, 3))
    assert model.methods.a.hints.teacher_taps == ('backbone.layer3',) * 2
    total, _ = model.parse_losses(tiny.losses_of(model))
    total.backward()


def test_peers_with_a_word(tmp_path: Path) -> None:
    methods = dict(ie=dict(type='IEKD', pairs='last'))
    model = ROOT_MODELS.build(tiny.mutual_config(methods=methods))
    for peer in model.peers.values():
        assert [pair.student for pair in peer.methods.ie.pairs] == ['backbone.layer3']


def test_detector_with_a_word(tmp_path: Path) -> None:
    methods = dict(hint=dict(type='Hint', pairs='neck'))
    model = small.distiller(tmp_path, small.detector('gfl'), methods=methods).train()
    found = small.losses_of(model, small.batch_for('gfl'))
    assert found['hint.loss_hint'] > 0
    assert [pair.student for pair in model.methods.hint.pairs][:2] == ['neck[0]', 'neck[1]']


def test_student_is_the_same_with_a_word_and_with_taps(tmp_path: Path) -> None:
    """The search for levels draws no random number and changes no module."""
    config = tiny.distiller_config(tmp_path, methods=dict(m=METHODS['Hint']))
    runs = []
    for pairs in ('last', [dict(student='backbone.layer3', teacher='backbone.layer3')]):
        one = copy.deepcopy(config)
        one['methods']['m']['pairs'] = pairs
        one['teachers'] = one['teachers'][:1]
        torch.manual_seed(0)
        runs.append(tiny.weights_of(ROOT_MODELS.build(one)))
    assert not tiny.differing(*runs)


@pytest.mark.parametrize(
    ('method', 'key', 'found'),
    [
        (dict(type='Hint', pairs='neck'), 'methods.m.pairs', 'ImageClassifier'),
        (dict(type='Hint', pairs='middle'), 'methods.m.pairs', 'middle'),
        (dict(type='Overhaul', pairs='stages'), 'methods.m.pairs', ANY),
        (dict(type='FactorTransfer', pairs='last'), 'methods.m.pairs[0].checkpoint', ANY),
    ],
)
def test_word_that_finds_nothing_is_refused(
    method: Any, key: str, found: Any, tmp_path: Path
) -> None:
    with raises_config_error(key, found):
        tiny.distiller(tmp_path, methods=dict(m=method))


def test_stages_that_are_frozen_are_left_out_of_the_student(tmp_path: Path) -> None:
    init_default_scope('mmdet')
    network = small.network(small.detector('gfl'))
    found = LevelFinder(TappedModel(network, 'student'))
    assert network.backbone.frozen_stages == 1
    every = [level.tap for level in found.levels('stages')]
    trained = [level.tap for level in found.levels('stages', trained=True)]
    assert every == [f'backbone.layer{n}' for n in (1, 2, 3, 4)] and trained == every[1:]
