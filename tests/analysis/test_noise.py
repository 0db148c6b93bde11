import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from torch import nn

from mmkd_plugin.analysis.images import Images
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.analysis.noise import NoisePoint, add_noise, draw_noise, noise_curve


def test_noise_curve_at_level_0_is_the_networks_own_loss_and_accuracy(
    plain: LoadedNetwork, images: Images
) -> None:
    (found,) = noise_curve(plain, images.batches, [0.0], seeds=3)
    whole = tiny.TinyImages(24, seed=3)
    items = [whole[index] for index in range(24)]
    batch = dict(
        inputs=[item['inputs'] for item in items],
        data_samples=[item['data_samples'] for item in items],
    )
    data = plain.model.data_preprocessor(batch)
    own_loss = float(plain.model(**data, mode='loss')['loss'])
    assert found.losses == [pytest.approx(own_loss, rel=1e-5)]
    samples = plain.model(**data, mode='predict')
    right = [bool(sample.pred_label == sample.gt_label) for sample in samples]
    assert found.accuracies == [pytest.approx(100 * sum(right) / 24)]
    assert 0 < sum(right) < 24


def test_noise_curve_repeats_its_draws_and_leaves_the_network_unchanged(
    plain: LoadedNetwork, images: Images
) -> None:
    before = tiny.weights_of(plain.model)
    curve = noise_curve(plain, images.batches, [0.0, 0.01, 0.5], seeds=4)
    assert curve == noise_curve(plain, images.batches, [0.0, 0.01, 0.5], seeds=4)
    assert all(torch.equal(value, before[name]) for name, value in plain.model.state_dict().items())
    clean, little, much = curve
    assert [len(one.losses) for one in curve] == [1, 4, 4]
    assert len(set(much.losses)) == 4
    distances = [max(abs(loss - clean.losses[0]) for loss in one.losses) for one in (little, much)]
    assert 0 < 10 * distances[0] < distances[1]


def test_add_noise_is_relative_to_each_filter_and_each_number_of_a_vector() -> None:
    layer = nn.Linear(20_000, 3)
    layer.weight.data.normal_().mul_(torch.tensor([1.0, 10.0, 0.0])[:, None])
    layer.bias.data = torch.tensor([2.0, 0.0, -1.0])
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    add_noise(layer, 0.2, seed=1)
    noise = layer.weight.detach() - weight
    sizes = noise.square().mean(dim=1).sqrt() / weight.square().mean(dim=1).sqrt()
    # The relative standard error is sqrt(1 / 40,000) = 0.005.
    torch.testing.assert_close(sizes[:2], torch.full((2,), 0.2), atol=0.005, rtol=0)
    assert not noise[2].any()
    assert (layer.bias - bias).abs().gt(0).tolist() == [True, False, True]


def test_add_noise_before_batchnorm_does_not_depend_on_the_scale_of_a_filter() -> None:
    def disturbed(scale: float) -> torch.Tensor:
        torch.manual_seed(0)
        conv = nn.Conv2d(2, 3, 3, bias=False)
        conv.weight.data *= scale
        norm = nn.BatchNorm2d(3, eps=0.0, affine=False)
        net = nn.Sequential(conv, norm)
        add_noise(net, 0.3, seed=5)
        return net(torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1)))

    torch.testing.assert_close(disturbed(1.0), disturbed(8.0))


@pytest.mark.parametrize(
    ('levels', 'seeds', 'key', 'found'),
    [([-0.1], 2, '--levels', -0.1), ([0.1], 0, '--seeds', 0)],
)
def test_noise_curve_of_bad_numbers_raises(
    plain: LoadedNetwork, images: Images, levels: list[float], seeds: int, key: str, found: float
) -> None:
    with raises_config_error(key, found):
        noise_curve(plain, images.batches, levels, seeds)


def test_draw_noise_draws_means_as_lines_and_ranges_as_bands() -> None:
    found = [
        NoisePoint('net', 0.0, [1.0], [80.0]),
        NoisePoint('net', 0.1, [1.0, 4.0], [70.0, 50.0]),
    ]
    figure = draw_noise(found, 24)
    loss, accuracy = figure.axes
    assert loss.lines[0].get_xydata().tolist() == [[0.0, 1.0], [0.1, 2.5]]
    assert accuracy.lines[0].get_xydata().tolist() == [[0.0, 80.0], [0.1, 60.0]]
    band = loss.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (1.0, 4.0)
    assert loss.get_legend().get_texts()[0].get_text() == 'net'
