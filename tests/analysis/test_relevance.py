import pytest
import torch
from helpers import classification as tiny
from helpers.analysis import TAP, network_of
from helpers.errors import raises_config_error
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd_plugin.analysis.images import Images
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.analysis.parts import DistilledNetworks, Part
from mmkd_plugin.analysis.relevance import Relevance, relevance, relevances
from mmkd_plugin.registry import MODELS

HALVES = (slice(None, 4), slice(4, None))
QUARTERS = [(rows, columns) for rows in HALVES for columns in HALVES]


@MODELS.register_module(force=True)
class QuarterMeans(BaseModule):
    """The mean of each quarter of the image as a channel, (N, 4, 1, 1).

    ``gate`` multiplies each channel by its own sigmoid.
    """

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


def quarters(weight: Tensor, gate: bool = False) -> LoadedNetwork:
    """A network whose scores are ``weight`` (4, 4) times the means of the quarters."""
    config = dict(
        type='ImageClassifier',
        backbone=dict(type='mmkd_plugin.QuarterMeans', gate=gate),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=4),
        data_preprocessor=dict(tiny.preprocessor(), mean=[0.0] * 3, std=[100.0] * 3),
    )
    model = tiny.build_network(tiny.network_config(config, 'network'), 'network')
    model.head.fc.weight.data = weight
    model.head.fc.bias.data.zero_()
    return network_of(model)


def by_quarter(found: Relevance) -> Tensor:
    """Sums of the relevance of each quarter, (N, 4)."""
    return torch.stack(
        [found.maps[:, rows, columns].sum(dim=(1, 2)) for rows, columns in QUARTERS], dim=1
    )


def means_of(images: Images) -> Tensor:
    """Means of each quarter of the preprocessed images, (N, 4)."""
    pixels = torch.stack(images.raw(99)).float() / 100
    return torch.stack(
        [pixels[:, :, rows, columns].mean(dim=(1, 2, 3)) for rows, columns in QUARTERS], dim=1
    )


def test_relevance_lies_on_the_pixels_of_the_class_and_sums_to_the_score(images: Images) -> None:
    found = relevance(quarters(torch.eye(4)), images.batches)
    means, own = means_of(images), nn.functional.one_hot(found.labels, 4)
    assert found.labels.tolist() == [index % 4 for index in range(24)]
    torch.testing.assert_close(by_quarter(found), means * own, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.scores, (means * own).sum(dim=1))
    assert found.predictions.tolist() == means.argmax(dim=1).tolist()


@pytest.mark.parametrize('rule', ['lrp', 'gradients'])
def test_relevance_of_each_quarter_is_its_term_and_of_a_part_that_of_its_channels(
    images: Images, rule: str
) -> None:
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


def test_relevance_of_a_brighter_pixel_is_greater() -> None:
    raw = tiny.batch_of(1)
    raw['inputs'][0][:] = 10
    raw['inputs'][0][:, 1, 2] = 200
    (map_,) = relevance(quarters(torch.eye(4)), [raw]).maps
    assert map_.argmax() == 1 * 8 + 2
    # z-box: a pixel counts by its distance from the least one, here 10, so the bright one has all.
    torch.testing.assert_close(map_[1, 2], map_.sum(), atol=1e-5, rtol=1e-4)


def test_relevances_of_a_residual_network_sum_to_the_score_and_its_parts_to_the_whole(
    networks: DistilledNetworks, images: Images
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
    plain = networks.student.scores(networks.student.inputs(images.batches[0]))
    torch.testing.assert_close(
        student.scores[:16], plain.gather(1, student.labels[:16, None])[:, 0], atol=1e-4, rtol=1e-4
    )
    after = networks.student.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_relevance_by_gradients_sums_to_the_difference_from_a_blank_image(
    plain: LoadedNetwork, images: Images
) -> None:
    found = relevance(plain, images.batches, 'gradients')
    nothing = plain.scores(torch.zeros(1, 3, 8, 8))[0]
    missed = (found.sums - (found.scores - nothing[found.labels])).abs().mean()
    assert missed < 0.1 * (found.scores - nothing[found.labels]).abs().mean()


def test_relevance_of_layers_without_rule_raises_and_gradients_need_none(images: Images) -> None:
    gated = quarters(torch.eye(4), gate=True)
    with raises_config_error('--rule', 'lrp', 'in net', '% of the scores', fix='--rule gradients'):
        relevance(gated, images.batches)
    found = relevance(gated, images.batches, 'gradients')
    torch.testing.assert_close(found.sums, found.scores, atol=0.02, rtol=0.05)


def test_relevance_of_a_part_may_be_tapped_at_the_input_of_a_layer(
    plain: LoadedNetwork, images: Images
) -> None:
    whole = relevance(plain, images.batches)
    halves = [
        relevance(plain, images.batches, 'lrp', Part('half', tap, index, 16, (0, '')))
        for index in (torch.arange(8), torch.arange(8, 16))
        for tap in (TAP, f'{TAP}.0.relu2:input')
    ]
    torch.testing.assert_close(halves[1].maps, halves[0].maps, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(halves[1].maps + halves[3].maps, whole.maps, atol=1e-5, rtol=1e-4)
    assert halves[1].maps.abs().sum() > 0


def test_relevance_by_an_unknown_rule_raises(plain: LoadedNetwork, images: Images) -> None:
    with raises_config_error('--rule', 'magic', 'lrp', 'gradients'):
        relevance(plain, images.batches, 'magic')


def test_relevance_without_zennit_raises(
    plain: LoadedNetwork, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmkd_plugin.analysis.relevance.has', lambda name: False)
    with raises_config_error('--rule', fix='pip install zennit'):
        relevance(plain, images.batches)
