"""Logits as bytes."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import raises_config_error

from mmkd_plugin.replay.logits import LogitCodec, from_bytes, to_bytes
from mmkd_plugin.replay.truncation import Truncation

EXTREMES = torch.tensor([[0.0, -0.0, 1e-38, 3.4e38, -3.4e38, 1 / 3, -1e-45, 65504.0]])


@pytest.mark.parametrize('top', [None, 3])
def test_codec_float32_returns_all_logits_bit_for_bit(top: int | None) -> None:
    logits = EXTREMES.repeat(2, 1)
    codec = LogitCodec(8, top=top, dtype='float32')
    found = codec.decode(codec.encode(logits))
    assert torch.equal(found.view(torch.int32), logits.view(torch.int32))
    assert codec.exact and codec.kept == 8


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('columns', [1, 2, 100, 256])
def test_codec_float16_returns_the_nearest_numbers(columns: int, seed: int) -> None:
    logits = torch.randn(9, columns, generator=torch.Generator().manual_seed(seed)) * 30
    codec = LogitCodec(columns, top=None)
    data = codec.encode(logits)
    assert data.shape == (9, codec.nbytes) == (9, 2 * columns)
    assert torch.equal(codec.decode(data), logits.half().float())


@pytest.mark.parametrize(
    ('columns', 'top', 'dtype', 'nbytes'),
    [
        (256, 20, 'float16', 512),
        (257, 20, 'float16', 84),
        (257, None, 'float16', 514),
        (1000, 20, 'float32', 124),
        (65536, 10, 'float16', 44),
        (65537, 10, 'float16', 64),
    ],
)
def test_codec_size_follows_from_classes_top_and_dtype(
    columns: int, top: int | None, dtype: str, nbytes: int
) -> None:
    codec = LogitCodec(columns, top=top, dtype=dtype)
    assert codec.nbytes == nbytes
    assert codec.encode(torch.randn(2, columns)).shape == (2, nbytes)


def reference(logits: torch.Tensor, top: int, activation: str) -> torch.Tensor:
    """Return what a row returns, class by class in float64."""
    rows = []
    for row in logits.double().tolist():
        order = sorted(range(len(row)), key=lambda c: -row[c])
        kept, others = order[:top], order[top:]
        if activation == 'softmax':
            rest = np.log(sum(np.exp(row[c]) for c in others) / len(others))
        else:
            mean = sum(1 / (1 + np.exp(-row[c])) for c in others) / len(others)
            rest = np.log(mean / (1 - mean))
        rows.append([row[c] if c in kept else rest for c in range(len(row))])
    return torch.tensor(rows)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('top', [1, 20, 299])
def test_codec_top_keeps_the_largest_and_the_mass_of_the_rest(
    top: int, activation: str, seed: int
) -> None:
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(seed)) * 4
    codec = LogitCodec(300, activation, top, 'float32')
    found = codec.decode(codec.encode(logits))
    torch.testing.assert_close(
        found.double(), reference(logits, top, activation), rtol=1e-5, atol=1e-4
    )
    before, after = codec.probabilities(logits), codec.probabilities(found)
    torch.testing.assert_close(after.sum(1), before.sum(1), rtol=1e-5, atol=1e-5)
    largest = logits.argsort(dim=1, descending=True)[:, :top]
    torch.testing.assert_close(
        after.gather(1, largest), before.gather(1, largest), rtol=1e-5, atol=1e-6
    )
    assert not codec.exact


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('value', [-1e4, -200.0, 0.0, 200.0, 1e4])
def test_codec_top_is_finite_for_extreme_logits(activation: str, value: float) -> None:
    logits = torch.full((2, 300), value)
    logits[:, 7] = 30000.0
    codec = LogitCodec(300, activation, 2)
    found = codec.decode(codec.encode(logits))
    assert bool(found.isfinite().all()) and found[:, 7].tolist() == [30000.0] * 2


@pytest.mark.parametrize('dtype', ['float16', 'float32'])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
@pytest.mark.parametrize('top', [None, 5])
def test_codec_refuses_numbers_that_are_not_finite(
    value: float, dtype: str, top: int | None
) -> None:
    logits = torch.zeros(2, 300)
    logits[1, 3] = value
    if value == float('-inf') and top:  # a class that is impossible is none of the largest
        return
    with raises_config_error('scores', fix=''):
        LogitCodec(300, top=top, dtype=dtype).encode(logits)


@pytest.mark.parametrize(('value', 'fits'), [(65504.0, True), (-65504.0, True), (70000.0, False)])
def test_to_bytes_refuses_overflow_of_float16(value: float, fits: bool) -> None:
    values = torch.tensor([[value, 0.0]])
    assert from_bytes(to_bytes(values, 'float32', 'neck'), 'float32').tolist() == [[value, 0.0]]
    if fits:
        assert from_bytes(to_bytes(values, 'float16', 'neck'), 'float16').tolist() == [[value, 0.0]]
    else:
        with raises_config_error('neck', value, fix="dtype='float32'"):
            to_bytes(values, 'float16', 'neck')


@pytest.mark.parametrize('top', [0, -1, 1.5, True, 'all'])
def test_codec_top_that_is_no_positive_integer_is_an_error(top: Any) -> None:
    with raises_config_error('top', top):
        LogitCodec(1000, top=top)


@pytest.mark.parametrize('columns', [10, 1000])
def test_codec_top_of_all_classes_or_more_is_an_error(columns: int) -> None:
    for top in (columns, columns + 1):
        with raises_config_error('top', top, str(columns), fix='None'):
            LogitCodec(columns, top=top)


@pytest.mark.parametrize(('key', 'found'), [('dtype', 'int8'), ('activation', 'relu')])
def test_codec_of_another_type_or_activation_is_an_error(key: str, found: str) -> None:
    with raises_config_error(key, found):
        LogitCodec(10, **{key: found})  # type: ignore[arg-type]


@pytest.mark.parametrize('seed', range(20))
def test_codec_random_bytes_give_numbers_or_a_value_error(seed: int) -> None:
    codec = LogitCodec(1000, top=20)
    data = np.random.default_rng(seed).integers(0, 256, (4, codec.nbytes), dtype=np.uint8)
    with pytest.raises(ValueError, match='of 1000'):
        codec.decode(data)


def test_truncation_adds_up_over_processes() -> None:
    one, other = Truncation(), Truncation()
    one.compare(torch.tensor([0.5, 0.1]), torch.tensor([0.25, 0.1]))
    other.compare(torch.tensor([0.5]), torch.tensor([0.375]))
    one.images, other.images = 2, 1
    one.add(Truncation.from_json(other.to_json()))
    assert (one.largest, one.mean, one.count, one.images) == (0.25, 0.125, 3, 3)
    assert str(one) == '3 images: probabilities differ by at most 0.25, by 0.12 on average'


@pytest.mark.parametrize(
    'saved',
    [None, [], {}, {'largest': 1}, {**Truncation().to_json(), 'x': 1},
     {**Truncation().to_json(), 'count': 'many'}],
)  # fmt: skip
def test_truncation_of_another_form_is_a_value_error(saved: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Truncation.from_json(saved)


def test_codec_encodes_each_row_alone() -> None:
    codec = LogitCodec(300, top=4)
    logits = torch.randn(5, 300)
    whole = codec.encode(logits)
    for number, order in itertools.product(range(5), ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3])):
        assert np.array_equal(codec.encode(logits[order])[order.index(number)], whole[number])
