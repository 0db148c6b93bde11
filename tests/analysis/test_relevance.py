from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import classification as tiny
from helpers.analysis import TAP, network_of
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.analysis.images import Images
from mmkd_plugin.analysis.networks import Network, Networks
from mmkd_plugin.analysis.parts import Part
from mmkd_plugin.analysis.relevance import Relevance, relevance, relevances
from mmkd_plugin.analysis.relevance_numbers import relevance_numbers
from mmkd_plugin.analysis.relevance_picture import draw_relevance
from mmkd_plugin.analysis.rules import followers
from mmkd_plugin.registry import MODELS

HALVES = (slice(None, 4), slice(4, None))
QUARTERS = [(rows, columns) for rows in HALVES for columns in HALVES]


@MODELS.register_module(force=True)
class QuarterSums(BaseModule):
    """One channel a quarter of the image, the sum of its pixels: (N, 4, 1, 1); ``gate`` multiplies it by its own sigmoid."""

    def __init__(self, gate: bool = False) -> None:
        super().__init__()
        self.gate = gate
        self.conv = nn.Conv2d(3, 4, 8, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.conv.weight.data.zero_()
        for channel, (rows, columns) in enumerate(QUARTERS):
            self.conv.weight.data[channel, :, rows, columns] = 1 / 48

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = self.relu(self.conv(x))
        return (x * torch.sigmoid(x - 3) if self.gate else x,)


def quarters(weight: Tensor, gate: bool = False) -> Network:
    """Its scores are ``weight`` (4, 4) times the quarters' means."""
    config = dict(
        type='ImageClassifier',
        backbone=dict(type='mmkd_plugin.QuarterSums', gate=gate),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=4),
        data_preprocessor=dict(tiny.PREPROCESSOR, mean=[0.0] * 3, std=[100.0] * 3),
    )
    model = tiny.build_network(tiny.network_config(config, 'network'), 'network')
    model.head.fc.weight.data = weight
    model.head.fc.bias.data.zero_()
    return network_of(model)


def by_quarter(found: Relevance) -> Tensor:
    """(N, 4): the sum of the pixels of each quarter."""
    return torch.stack(
        [found.maps[:, rows, columns].sum(dim=(1, 2)) for rows, columns in QUARTERS], dim=1
    )


def means_of(images: Images) -> Tensor:
    """(N, 4): the mean of each quarter, as the network sees it."""
    pixels = torch.stack(images.raw(99)).float() / 100
    return torch.stack(
        [pixels[:, :, rows, columns].mean(dim=(1, 2, 3)) for rows, columns in QUARTERS], dim=1
    )


def test_relevance_is_where_the_class_is_and_sums_to_the_score(images: Images) -> None:
    found = relevance(quarters(torch.eye(4)), images.batches)
    means, own = means_of(images), nn.functional.one_hot(found.labels, 4)
    assert found.labels.tolist() == [index % 4 for index in range(24)]
    torch.testing.assert_close(by_quarter(found), means * own, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.scores, (means * own).sum(dim=1))
    assert found.predictions.tolist() == means.argmax(dim=1).tolist()


@pytest.mark.parametrize('rule', ['lrp', 'gradients'])
def test_each_quarter_gets_its_term_and_a_part_only_its_channels(images: Images, rule: str) -> None:
    weight = torch.tensor(
        [[1.0, 2.0, 0.5, 3.0], [-1.0, 2.0, 1.0, 1.0], [1.0, 1.0, 2.0, -0.5], [0.1, 0.2, 0.3, 4.0]]
    )
    network = quarters(weight)
    terms = means_of(images) * weight[torch.arange(24) % 4]
    whole = relevance(network, images.batches, rule)
    torch.testing.assert_close(by_quarter(whole), terms, atol=1e-4, rtol=1e-4)
    part = Part('two', 'backbone.relu', torch.tensor([0, 3]), 4, (0, ''))
    found = relevance(network, images.batches, rule, part)
    torch.testing.assert_close(
        by_quarter(found), terms * torch.tensor([1.0, 0.0, 0.0, 1.0]), atol=1e-4, rtol=1e-4
    )
    assert (found.name, found.whole) == ('two', network.name)
    torch.testing.assert_close(found.scores, whole.scores)


def test_a_pixel_that_is_brighter_has_more_of_its_quarters_relevance() -> None:
    raw = tiny.batch_of(1)
    raw['inputs'][0][:] = 10
    raw['inputs'][0][:, 1, 2] = 200
    (map_,) = relevance(quarters(torch.eye(4)), [raw]).maps
    assert map_.argmax() == 1 * 8 + 2
    # z-box: a pixel counts by its distance from the least one, here 10; so the bright one has all.
    torch.testing.assert_close(map_[1, 2], map_.sum(), atol=1e-5, rtol=1e-4)


def test_a_residual_network_keeps_the_score_and_its_parts_sum_to_it(
    networks: Networks, images: Images
) -> None:
    before = tiny.weights_of(networks.student.model)
    teacher, student, inherit, explore = relevances(networks, images.batches)
    assert [one.name for one in (teacher, student, inherit, explore)] == [
        't0',
        'student',
        'f_inh',
        'f_exp',
    ]
    for whole in (teacher, student):
        lost = (whole.sums - whole.scores).abs().sum() / whole.scores.abs().sum()
        assert lost < 0.05
    torch.testing.assert_close(inherit.maps + explore.maps, student.maps, atol=1e-5, rtol=1e-4)
    assert inherit.maps.abs().sum() > 0 < explore.maps.abs().sum()
    plain = networks.student.scores(
        FeatureTaps(networks.student.model, ['head']), networks.student.inputs(images.batches[0])
    )
    torch.testing.assert_close(
        student.scores[:16], plain.gather(1, student.labels[:16, None])[:, 0], atol=1e-4, rtol=1e-4
    )
    after = networks.student.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_integrated_gradients_sum_to_what_the_image_adds(plain: Network, images: Images) -> None:
    found = relevance(plain, images.batches, 'gradients')
    taps = FeatureTaps(plain.model, ['head'])
    nothing = plain.scores(taps, torch.zeros(1, 3, 8, 8))[0]
    missed = (found.sums - (found.scores - nothing[found.labels])).abs().mean()
    assert missed < 0.1 * (found.scores - nothing[found.labels]).abs().mean()


def test_layers_without_rule_are_noticed_and_gradients_need_none(images: Images) -> None:
    gated = quarters(torch.eye(4), gate=True)
    with pytest.raises(
        ValueError,
        match=r'^--rule: expected a network of convolutions.*got net, in which \d+% .*--rule gradients$',
    ):
        relevance(gated, images.batches)
    found = relevance(gated, images.batches, 'gradients')
    torch.testing.assert_close(found.sums, found.scores, atol=0.02, rtol=0.05)


def test_only_a_norm_that_alone_reads_a_layer_is_merged_into_it() -> None:
    config = dict(
        tiny.classifier(),
        backbone=dict(type='mmkd_plugin.CifarWideResNet', depth=10, widen_factor=1),
    )
    config['head']['in_channels'] = 64
    network = network_of(tiny.network(config))
    taps = FeatureTaps(network.model, ['head'])
    inputs = torch.randn(2, 3, 8, 8)
    names = {module: name for name, module in network.model.named_modules()}
    pairs = followers(network.model, lambda: network.scores(taps, inputs.clone().requires_grad_()))
    found = {(names[layer], names[norm]) for layer, norm in pairs}
    # The stem and the ends of blocks go into a sum as well as into the next norm.
    assert found == {(f'backbone.layer{n}.0.conv1', f'backbone.layer{n}.0.bn2') for n in (1, 2, 3)}
    raw = tiny.batch_of(8)
    whole = relevance(network, [raw])
    torch.testing.assert_close(
        whole.scores,
        network.scores(taps, network.inputs(raw)).gather(1, whole.labels[:, None])[:, 0],
    )


@pytest.mark.parametrize(
    ('change', 'rule', 'message'),
    [
        (lambda patch: patch.setattr('mmkd_plugin.analysis.relevance.has', lambda name: False), 'lrp', r'^--rule: expected Zennit'),
        (lambda patch: None, 'magic', r"^--rule: expected one of 'lrp', 'gradients', got 'magic'$"),
    ],
)  # fmt: skip
def test_what_cannot_be_done(
    plain: Network,
    images: Images,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[..., None],
    rule: str,
    message: str,
) -> None:
    change(monkeypatch)
    with pytest.raises(ValueError, match=message):
        relevance(plain, images.batches, rule)


def hand_made(name: str, maps: list[list[list[float]]], whole: str = '') -> Relevance:
    return Relevance(
        name,
        torch.tensor(maps),
        torch.tensor([2.0, 4.0]),
        torch.tensor([0, 1]),
        torch.tensor([0, 2]),
        whole,
    )


def test_numbers_of_maps() -> None:
    found = [
        hand_made('teacher', [[[1.0, 1.0]], [[0.0, 2.0]]]),
        hand_made('student', [[[1.0, 1.0]], [[2.0, 2.0]]]),
        hand_made('f_inh', [[[1.0, 0.0]], [[2.0, 0.0]]], 'student'),
        hand_made('f_exp', [[[0.0, 1.0]], [[0.0, 2.0]]], 'student'),
    ]
    numbers = {one['name']: one for one in relevance_numbers(found, ['teacher'])['networks']}
    half = 0.5**0.5
    assert numbers['student']['cosines'] == {'teacher': pytest.approx((1 + half) / 2)}
    assert numbers['f_inh']['cosines'] == {
        'teacher': pytest.approx(half / 2),
        'f_exp': pytest.approx(0.0),
    }
    assert numbers['f_exp']['cosines'] == {
        'teacher': pytest.approx((half + 1) / 2),
        'f_inh': pytest.approx(0.0),
    }
    assert (numbers['f_inh']['share'], numbers['student']['share']) == (0.5, None)  # 3 of 6
    assert (
        numbers['teacher']['accuracy'],
        numbers['teacher']['score'],
        numbers['teacher']['sum'],
    ) == (50.0, 3.0, 2.0)
    assert relevance_numbers(found, ['teacher'])['sums'][1] == dict(
        label=1, teacher=2.0, student=4.0, f_inh=2.0, f_exp=2.0
    )


def test_the_picture_names_and_scales() -> None:
    found = [
        hand_made('teacher', [[[1.0, 8.0]], [[0.0, 2.0]]]),
        hand_made('student', [[[1.0, -3.0]], [[2.0, 2.0]]]),
        hand_made('f_inh', [[[1.0, 0.0]], [[2.0, 0.0]]], 'student'),
    ]
    images = [torch.zeros(3, 2, 2, dtype=torch.uint8) for _ in range(2)]
    figure = draw_relevance(found, images, [0, 1], 'abc'.__getitem__)
    panels = [figure.axes[row * 4 : row * 4 + 4] for row in range(2)]
    assert [axes.get_title() for axes in panels[0]] == ['image', 'teacher', 'student', 'f_inh']
    assert [axes.get_xlabel() for axes in panels[0]] == [
        'class a',
        'score 2.0',
        'score 2.0',
        'adds +1.0',
    ]
    assert [axes.get_xlabel() for axes in panels[1]] == [
        'class b',
        'score 4.0, says c',
        'score 4.0, says c',
        'adds +2.0',
    ]
    assert [axes.images[0].get_clim() for axes in panels[0][1:]] == [
        (-8.0, 8.0),
        (-3.0, 3.0),
        (-3.0, 3.0),
    ]


def test_files_of_opencv_are_shown_in_their_colours() -> None:
    image = torch.zeros(3, 1, 2, dtype=torch.uint8)
    image[2, 0, 0] = 255  # red, last in BGR
    axes = draw_relevance([], [image], [0], str).axes[0]
    assert axes.images[0].get_array().tolist() == [[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]


def test_the_tap_of_a_part_may_be_what_goes_into_a_layer(plain: Network, images: Images) -> None:
    whole = relevance(plain, images.batches)
    halves = [
        relevance(plain, images.batches, 'lrp', Part('half', tap, index, 16, (0, '')))
        for index in (torch.arange(8), torch.arange(8, 16))
        for tap in (TAP, f'{TAP}.0.relu2:input')
    ]
    torch.testing.assert_close(halves[1].maps, halves[0].maps, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(halves[1].maps + halves[3].maps, whole.maps, atol=1e-5, rtol=1e-4)
    assert replace(halves[1], name='').maps.abs().sum() > 0
