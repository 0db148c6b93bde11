from dataclasses import replace

import pytest
import torch
from helpers import classification as tiny
from helpers.analysis import TAP, network_of
from helpers.errors import raises_config_error

from mmkd_plugin.analysis.features import layer_taps, record_features
from mmkd_plugin.analysis.images import Images
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.analysis.parts import DistilledNetworks
from mmkd_plugin.analysis.similarity import (
    compact,
    draw_similarity,
    pairs_of_interest,
    similarity,
)
from mmkd_plugin.models.losses import linear_cka


def by_hand(network: LoadedNetwork, images: Images) -> dict[str, torch.Tensor]:
    """Maps of the stem and the stages for all images at once, by calls of the layers."""
    pixels = (torch.stack(images.raw(99)).float() - 120) / 60
    backbone = network.model.backbone
    maps = {'bn1': backbone.bn1(backbone.conv1(pixels))}
    x = maps['bn1'].relu()
    for name in ('layer1', 'layer2', 'layer3'):
        x = maps[name] = getattr(backbone, name)(x)
    return maps


def test_record_features_joins_the_batches_of_each_layer(
    plain: LoadedNetwork, images: Images
) -> None:
    taps = layer_taps(plain, images.batches[0], 2)
    assert taps == [
        'backbone.conv1',
        'backbone.bn1',
        'backbone.layer1',
        'backbone.layer2',
        TAP,
        'neck.gap',
        'head.fc',
    ]
    features = record_features(plain, taps, images.batches)
    for name, values in by_hand(plain, images).items():
        torch.testing.assert_close(features[f'backbone.{name}'], values)
    assert features['head.fc'].shape == (24, 4)


def test_layer_taps_follow_the_depth_and_include_wanted_taps(
    plain: LoadedNetwork, images: Images
) -> None:
    raw = images.batches[0]
    assert layer_taps(plain, raw, 1) == ['backbone', 'neck', 'head']
    assert layer_taps(plain, raw, 1, [TAP]) == [TAP, 'neck', 'head'], (
        'the output of the backbone under the wanted name'
    )
    deep = layer_taps(plain, raw, 4)
    assert 'backbone.layer2.0.conv1' in deep
    assert 'backbone.layer2' not in deep, 'its last block returned the same tensor'
    with raises_config_error('--depth', 0):
        layer_taps(plain, raw, 0)


def test_layer_taps_are_in_execution_order(plain: LoadedNetwork, images: Images) -> None:
    wanted = [f'{TAP}.0.relu2:input', 'backbone.layer1']
    assert layer_taps(plain, images.batches[0], 1, wanted) == [
        'backbone.layer1',
        f'{TAP}.0.relu2:input',
        'backbone',
        'neck',
        'head',
    ]


def test_record_features_that_do_not_fit_into_memory_raises(
    plain: LoadedNetwork, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmkd_plugin.analysis.features.MOST_GIB', 1e-6)
    with raises_config_error('--images', fix='--depth'):
        record_features(plain, [TAP], images.batches)


@pytest.mark.parametrize('shape', [(20, 50), (20, 7), (20, 6, 4, 4)])
def test_compact_keeps_cka(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    y = torch.randn(20, 9) + x.flatten(1)[:, : 9 if shape[1] > 8 else 1] * 2
    assert compact(x).shape[1] <= 20
    torch.testing.assert_close(
        linear_cka(compact(x), compact(y)), linear_cka(x, y), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(linear_cka(compact(x), y), linear_cka(x, y), atol=1e-5, rtol=1e-5)


def test_similarity_is_cka_of_layers_and_parts(networks: DistilledNetworks, images: Images) -> None:
    found = similarity(networks, images.batches)
    torch.testing.assert_close(found.values.diagonal(), torch.ones(len(found.names)))
    assert torch.equal(found.values, found.values.T)
    student, teacher = by_hand(networks.student, images), by_hand(networks.teachers[0], images)
    inherit, explore = (student['layer3'][:, part.index] for part in networks.parts)
    expected = {
        (('student', 'f_inh'), ('student', 'f_exp')): linear_cka(inherit, explore),
        (('student', 'f_inh'), ('t0', 'layer3')): linear_cka(inherit, teacher['layer3']),
        (('student', 'f_exp'), ('t0', 'layer2')): linear_cka(explore, teacher['layer2']),
        (('student', 'layer1'), ('student', 'layer3')): linear_cka(
            student['layer1'], student['layer3']
        ),
        (('t0', 'bn1'), ('student', 'layer2')): linear_cka(teacher['bn1'], student['layer2']),
    }
    for (one, other), value in expected.items():
        assert found.of(one, other)['cka'] == pytest.approx(float(value), abs=1e-5)
        assert 0 < found.of(one, other)['cka'] < 1


def test_similarity_of_chance_is_cka_with_images_in_another_order(
    networks: DistilledNetworks, images: Images
) -> None:
    found = similarity(networks, images.batches)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    maps = by_hand(networks.student, images)
    chance = found.of(('student', 'layer2'), ('student', 'layer1'))['chance']
    assert chance == pytest.approx(
        float(linear_cka(maps['layer2'], maps['layer1'][order])), abs=1e-5
    )
    assert found.chance.diagonal().max() < 1


def test_similarity_of_others_takes_the_same_channels_if_they_have_as_many(
    networks: DistilledNetworks, images: Images
) -> None:
    same = network_of(tiny.network(tiny.classifier(), seed=9), 'same')
    wider = network_of(tiny.network(tiny.classifier(base_channels=6), seed=9), 'wider')
    compared = replace(networks, others=[same, wider])
    found = similarity(compared, images.batches)
    maps = by_hand(same, images)['layer3']
    value = found.of(('same', 'channels of f_inh'), ('same', 'channels of f_exp'))['cka']
    assert value == pytest.approx(
        float(linear_cka(*(maps[:, part.index] for part in networks.parts))), abs=1e-5
    )
    assert ('wider', 'layer3') in found.names
    assert ('wider', 'channels of f_inh') not in found.names
    assert pairs_of_interest(compared, found) == [
        (('student', 'f_inh'), ('student', 'f_exp')),
        (('student', 'f_inh'), ('t0', 'layer3')),
        (('student', 'f_exp'), ('t0', 'layer3')),
        (('student', 'layer3'), ('t0', 'layer3')),
        (('same', 'channels of f_inh'), ('same', 'channels of f_exp')),
        (('same', 'channels of f_inh'), ('t0', 'layer3')),
        (('same', 'channels of f_exp'), ('t0', 'layer3')),
        (('same', 'layer3'), ('t0', 'layer3')),
        (('wider', 'layer3'), ('t0', 'layer3')),
    ]


def test_draw_similarity_writes_every_number_where_its_names_meet(
    networks: DistilledNetworks, images: Images
) -> None:
    found = similarity(networks, images.batches)
    axes = draw_similarity(found).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [label.get_text() for label in axes.get_xticklabels()]
    row, column = labels.index('student: f_exp'), labels.index('t0: layer2')
    (written,) = [text.get_text() for text in axes.texts if text.get_position() == (column, row)]
    assert written == f'{found.of(("student", "f_exp"), ("t0", "layer2"))["cka"]:.2f}'
    assert 'over 24 images' in axes.get_title(loc='left')
