from collections import namedtuple
from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from torch import nn

from mmkd_plugin.adapters.taps import Tap

X, Y = torch.zeros(1), torch.ones(1)
Two = namedtuple('Two', 'one two')


@pytest.mark.parametrize(
    ('text', 'path', 'call', 'is_input', 'index'),
    [
        ('backbone.layer4', 'backbone.layer4', None, False, ()),
        ('neck[0]', 'neck', None, False, (0,)),
        ('backbone[-1]', 'backbone', None, False, (-1,)),
        ('bbox_head[0][2]', 'bbox_head', None, False, (0, 2)),
        ('relu#1', 'relu', 1, False, ()),
        ('relu:input', 'relu', None, True, ()),
        ('layer4.1.relu#1:input[0]', 'layer4.1.relu', 1, True, (0,)),
    ],
)
def test_parse_tap_gives_path_call_input_and_index(
    text: str, path: str, call: int | None, is_input: bool, index: tuple[int, ...]
) -> None:
    assert Tap.parse(text, 'taps') == Tap(text, path, call, is_input, index)


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[0]',
        'first[',
        'first[a]',
        'first[0][',
        'first[0]1',
        'first#',
        'first#-1',
        'first:output',
        'first[0]:input',
        3,
        None,
        ['first'],
    ],
)
def test_parse_anything_else_is_refused_with_examples(text: Any) -> None:
    with raises_config_error('pairs[0].student', text, fix="'backbone.layer4.1.relu#1:input'"):
        Tap.parse(text, 'pairs[0].student')


def test_require_module_unknown_path_lists_the_nearest() -> None:
    net = nn.ModuleDict({'first': nn.Linear(1, 1), 'deep': nn.ReLU()})
    Tap.parse('first', 'taps').require_module(net, 'student', 'taps')
    with raises_config_error('taps', 'fist[0]', 'student (ModuleDict)', fix="'first', 'deep'"):
        Tap.parse('fist[0]', 'taps').require_module(net, 'student', 'taps')


@pytest.mark.parametrize(
    ('text', 'values', 'expected'),
    [
        ('a', X, X),
        ('a', (X,), X),
        ('a', [(X,)], X),
        ('a[0]', X, X),  # one tensor where other networks return several
        ('a[-1]', X, X),
        ('a[0]', (X, Y), X),
        ('a[-1]', (X, Y), Y),
        ('a[1]', ([X, X], [Y]), Y),
        ('a[0][1]', ([X, Y], [X]), Y),
        ('a[1]', Two(X, Y), Y),
    ],
)
def test_pick_and_put_use_the_same_tensor(text: str, values: Any, expected: torch.Tensor) -> None:
    tap, other = Tap.parse(text, 'taps'), torch.full((1,), 7.0)
    [found] = tap.pick(nn.Identity(), values)
    assert found is expected
    changed = tap.put(values, other)
    assert type(changed) is type(values)
    assert tap.pick(nn.Identity(), changed)[0] is other


@pytest.mark.parametrize(
    ('text', 'values', 'mentions', 'fix'),
    [
        ('pair', (X, Y), '2 tensors', "'pair[0]' … 'pair[1]'"),
        ('lists', ([X, Y], [X]), '2 tensors', "'lists[0][0]' … 'lists[1][0]'"),
        ('lists[0]', ([X, Y], [X]), '2 tensors', "'lists[0][0]' … 'lists[0][1]'"),
        ('pair[2]', (X, Y), '2 tensors', "'pair[0]' … 'pair[1]'"),
        ('pair[-3]', (X, Y), '2 tensors', "'pair[0]' … 'pair[1]'"),
        ('first[1]', X, 'one Tensor', 'Leave the index out'),
        ('first[0][1]', X, 'one Tensor', 'Leave the index out'),
        ('words', {'x': X}, 'no tensor but dict', 'tools/inspect_taps.py'),
        ('empty', (), '0 tensors', ''),
    ],
)
def test_pick_no_single_tensor_is_refused_with_the_taps_to_use(
    text: str, values: Any, mentions: str, fix: str
) -> None:
    with raises_config_error('', text, mentions, fix=fix):
        Tap.parse(text, 'taps').pick(nn.Identity(), values)


def test_pick_input_of_a_layer_in_place_is_a_copy() -> None:
    tap = Tap.parse('relu:input', 'taps')
    [copied] = tap.pick(nn.ReLU(inplace=True), (X,))
    assert copied is not X and torch.equal(copied, X)
    [same] = tap.pick(nn.ReLU(), (X,))
    assert same is X


@pytest.mark.parametrize(
    ('text', 'expected'),
    [('deep', 'deep#0'), ('deep:input', 'deep#0:input'), ('deep[1]', 'deep#0[1]')],
)
def test_numbered_puts_the_call_behind_the_path(text: str, expected: str) -> None:
    assert Tap.parse(text, 'taps').numbered() == expected
