"""Layouts of tapped tensors: measured by a second size, never guessed."""

import pytest
import torch
from helpers.errors import raises_config_error
from torch import Tensor, nn

from mmkd_plugin.adapters.layout import Layout, grid_of, measure_layouts
from mmkd_plugin.adapters.tapped_model import TappedModel


class Patches(nn.Module):
    """Four-pixel patches of an image as tokens, after ``extra`` others, in any order of axes."""

    def __init__(self, extra: int = 0, form: str = 'NLC', side: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 4, 4)
        self.extra = extra
        self.form = form
        self.side = side
        self.out = nn.Identity()

    def forward(self, inputs: Tensor, data_samples: object = None, mode: str = 'tensor') -> Tensor:
        if self.side is not None:
            assert inputs.shape[2:] == (self.side, self.side), 'another size'
        maps = self.conv(inputs)
        if self.form == 'NHWC':
            return self.out(maps.permute(0, 2, 3, 1))
        if self.form == 'NCHW':
            return self.out(maps)
        tokens = torch.cat([maps.new_zeros(len(maps), 16, self.extra), maps.flatten(2)], dim=2)
        return self.out(tokens if self.form == 'NCL' else tokens.transpose(1, 2))


def feature(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tapped map, and the map that it was made of."""
    network = TappedModel(model, 'model')
    network.request(['out'])
    found = network.observe(inputs).feature('out')
    return found, model.conv(inputs)


@pytest.mark.parametrize('form', ['NLC', 'NCL', 'NHWC', 'NCHW'])
@pytest.mark.parametrize('extra', [0, 1, 2])
@pytest.mark.parametrize('size', [(32, 32), (24, 40), (64, 16)])
def test_every_layout_becomes_the_map_that_it_was_made_of(
    form: str, extra: int, size: tuple[int, int]
) -> None:
    found, expected = feature(Patches(extra, form), torch.randn(2, 3, *size))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_channels_that_are_as_many_as_tokens_do_not_confuse_the_measurement() -> None:
    found, expected = feature(Patches(0, 'NCL'), torch.randn(2, 3, 16, 16))  # (2, 16, 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_layout_is_measured_once_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout())
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    network = TappedModel(Wrapped(model).train(), 'model')
    network.request(['inner.1'])
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    for _ in range(3):
        network.observe(torch.zeros(2, 3, 16, 16))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training
    assert len(network.layouts) == 1


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor, data_samples: object = None, mode: str = 'tensor') -> Tensor:
        return self.inner(inputs)


@pytest.mark.parametrize(('form', 'known'), [('NCHW', True), ('NHWC', True), ('NLC', False)])
def test_network_of_one_size_is_read_only_where_its_shapes_decide(form: str, known: bool) -> None:
    found, expected = feature(Patches(1, form, side=32), torch.randn(2, 3, 32, 32))
    assert torch.equal(found, expected) if known else found.shape == (2, 65, 16)


def test_ambiguous_shape_of_one_size_has_no_layout() -> None:
    assert measure_layouts({'a': (2, 8, 8, 8)}, (32, 32), lambda _: None) == {'a': None}


def test_windows_and_queries_are_no_maps() -> None:
    def run(size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        windows = size[0] * size[1] // 64
        return dict(windows=(2 * windows, 64, 8), queries=(2, 100, 8))

    assert measure_layouts(run((32, 32)), (32, 32), run) == dict(windows=None, queries=Layout())


def test_tokens_off_the_grid_are_refused() -> None:
    with raises_config_error('student', (2, 8, 7), '7 tokens', 'neck', fix='multiples'):
        Layout((2,)).to_map(torch.zeros(2, 8, 7), (64, 64), 'neck', 'student')


@pytest.mark.parametrize('layout', [Layout((1,), 2), Layout((2,)), Layout((1, 2)), Layout((2, 3))])
def test_map_goes_back_into_the_form_it_came_from(layout: Layout) -> None:
    shapes = {(1,): (2, 18, 3), (2,): (2, 3, 16), (1, 2): (2, 4, 4, 3), (2, 3): (2, 3, 4, 4)}
    output = torch.randn(shapes[layout.positions])
    again = layout.from_map(layout.to_map(output, (8, 8), 'tap', 'key'), output)
    torch.testing.assert_close(again, output, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('count', 'size', 'grid'),
    [(49, (224, 224), (7, 7)), (4, (33, 64), (2, 2)), (6, (40, 64), (2, 3)), (0, (8, 8), None)],
)
def test_grid_follows_the_proportions_of_the_input(
    count: int, size: tuple[int, int], grid: tuple[int, int] | None
) -> None:
    assert grid_of(count, size) == grid
