from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.taps import FeatureTaps, replaced


class Net(nn.Module):
    """Layers that return a tensor, two, a tuple of one, and a dict; it counts how often the deep one ran."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.act = nn.ReLU(inplace=True)
        self.pair = _Returns(lambda x: (x, 2 * x))
        self.single = _Returns(lambda x: (x,))
        self.words = _Returns(lambda x: {'x': x})
        self.lists = _Returns(lambda x: ([x, 3 * x], [x]))
        self.deep = _Returns(lambda x: x + 1)

    def forward(
        self, x: Tensor, use: tuple[str, ...] = ('first', 'pair', 'single', 'words', 'deep')
    ) -> Tensor:
        for name in use:
            y = self.get_submodule(name)(x)
            x = y if isinstance(y, Tensor) else next(iter(y.values() if isinstance(y, dict) else y))
        return x


class _Returns(nn.Module):
    def __init__(self, what: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.what = what
        self.calls = 0

    def forward(self, x: Tensor) -> object:
        self.calls += 1
        return self.what(x)


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in net.modules())


def record(
    net: nn.Module, *taps: str, use: tuple[str, ...] | None = None, stop_early: bool = False
) -> dict[str, Tensor]:
    with FeatureTaps(net, taps).record(net, stop_early) as features:
        net(torch.ones(2, 3)) if use is None else net(torch.ones(2, 3), use)
    return features


def test_what_a_module_returned_is_recorded_with_its_gradient() -> None:
    net = Net()
    features = record(net, 'first', 'deep')
    torch.testing.assert_close(features['first'], net.first(torch.ones(2, 3)))
    torch.testing.assert_close(features['deep'], features['first'] + 1)
    features['deep'].sum().backward()
    assert net.first.bias.grad.tolist() == [2.0] * 4  # two images


def test_an_index_picks_of_several_and_a_tuple_of_one_needs_none() -> None:
    features = record(Net(), 'pair[0]', 'pair[1]', 'pair[-1]', 'single', 'single[0]', 'single[-1]')
    torch.testing.assert_close(features['pair[1]'], 2 * features['pair[0]'])
    assert features['pair[-1]'] is features['pair[1]']
    assert features['single'] is features['single[0]'] is features['single[-1]']


def test_lists_in_a_tuple_have_an_index_each() -> None:
    features = record(
        Net(), 'first', 'lists[0][0]', 'lists[0][-1]', 'lists[1]', use=('first', 'lists')
    )
    assert features['lists[0][0]'] is features['lists[1]'] is features['first']
    torch.testing.assert_close(features['lists[0][-1]'], 3 * features['first'])


def test_repeated_taps_are_recorded_once() -> None:
    taps = FeatureTaps(Net(), ['first', 'deep', 'first'])
    assert taps.taps == ('first', 'deep')


def test_an_unknown_path_lists_the_nearest() -> None:
    with pytest.raises(
        ValueError,
        match=r"^student taps: expected the path of a module of Net, got 'fist'.*'first'",
    ):
        FeatureTaps(Net(), ['fist'], 'student taps')


@pytest.mark.parametrize(
    'tap',
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
def test_what_is_no_tap_is_refused(tap: object) -> None:
    with pytest.raises(ValueError, match=r'^taps: expected a tap such as'):
        FeatureTaps(Net(), [tap])


@pytest.mark.parametrize(
    ('tap', 'message'),
    [
        ('pair', r"one tensor from 'pair', got 2: name one as pair\[0\] … pair\[1\]"),
        ('lists', r"one tensor from 'lists', got 2: name one as lists\[0\]\[0\] … lists\[1\]\[0\]"),
        (
            'lists[0]',
            r"one tensor from 'lists\[0\]', got 2: name one as lists\[0\]\[0\] … lists\[0\]\[1\]",
        ),
        ('first[0][1]', r"several tensors from 'first\[0\]\[1\]', got Tensor: leave the index out"),
        ('pair[2]', r"one tensor from 'pair\[2\]', got 2: name one as pair\[0\] … pair\[1\]"),
        ('pair[-3]', r"one tensor from 'pair\[-3\]', got 2"),
        ('first[1]', r"several tensors from 'first\[1\]', got Tensor: leave the index out"),
        ('words', r"a tensor from 'words', got dict"),
    ],
)
def test_an_output_that_is_not_one_tensor_is_named(tap: str, message: str) -> None:
    net = Net()
    with pytest.raises(ValueError, match=f'^taps: expected {message}'):
        record(net, tap, use=('first', 'pair', 'words', 'lists'))
    assert not hooks(net)


def test_called_twice_is_an_error_unlike_once_in_each_of_two_forwards() -> None:
    net = Net()
    with pytest.raises(
        ValueError,
        match=r"^taps: expected 'deep' to be called once in a forward, it was called again",
    ):
        record(net, 'deep', use=('first', 'deep', 'deep'))
    assert not hooks(net)
    record(net, 'deep')
    record(net, 'deep')


def test_a_number_takes_one_of_several_calls() -> None:
    net = Net()
    features = record(net, 'deep#0', 'deep#1', use=('first', 'deep', 'deep'))
    torch.testing.assert_close(features['deep#1'], features['deep#0'] + 1)
    with pytest.raises(
        ValueError,
        match=r"^taps: expected 'deep#2' to run in a forward, it was only called 2 times",
    ):
        record(net, 'deep#2', use=('first', 'deep', 'deep'))
    with pytest.raises(ValueError, match=r"called again: .* say which call, 'deep#0:input', or"):
        record(net, 'deep:input', use=('first', 'deep', 'deep'))


def test_what_goes_into_a_module_is_recorded_with_its_gradient() -> None:
    net = Net()
    features = record(net, 'deep:input', 'first')
    torch.testing.assert_close(features['deep:input'], features['first'])
    features['deep:input'].sum().backward()
    assert net.first.bias.grad.tolist() == [2.0] * 4
    assert not sum(len(module._forward_pre_hooks) for module in net.modules())


def test_what_goes_into_a_layer_that_works_in_place_stays_as_it_was() -> None:
    net = Net()
    expected = net.first(torch.ones(2, 3)).detach()
    assert expected.min() < 0
    features = record(net, 'act:input', 'act', use=('first', 'act'))
    torch.testing.assert_close(features['act:input'], expected)
    torch.testing.assert_close(features['act'], expected.relu())
    features['act:input'].sum().backward()
    assert net.first.bias.grad.tolist() == [2.0] * 4


def test_an_input_tap_stops_before_its_module() -> None:
    net = Net()
    assert set(record(net, 'deep:input', stop_early=True)) == {'deep:input'}
    assert net.deep.calls == 0


def test_never_called_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"^taps: expected 'deep' to run in a forward, it was never called"
    ):
        record(Net(), 'first', 'deep', use=('first',))


def test_what_is_optional_may_not_run() -> None:
    taps = FeatureTaps(Net(), ['first', 'deep'], optional=['deep'])
    net = Net()
    with taps.record(net) as features:
        net(torch.ones(2, 3), ('first',))
    assert list(features) == ['first']


@pytest.mark.parametrize('gradient', [True, False])
def test_changed_in_place_afterwards_is_an_error(gradient: bool) -> None:
    net = Net()
    with torch.set_grad_enabled(gradient):
        with pytest.raises(
            ValueError, match=r"^taps: expected the output of 'first' to stay as it was recorded"
        ):
            record(net, 'first', use=('first', 'act'))
        assert not hooks(net)
        assert (
            record(net, 'act', use=('first', 'act'))['act'].min() >= 0
        )  # the layer that changes it may be tapped


def test_a_view_of_a_tensor_that_changes_is_noticed_too() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.ReLU(inplace=True))
    with (
        pytest.raises(ValueError, match=r"output of '1' to stay"),
        FeatureTaps(net, ['1']).record(net),
    ):
        net(torch.ones(2, 3))


def test_hooks_are_gone_after_success_and_after_any_exception() -> None:
    net = Net()
    record(net, 'first', 'deep')
    assert not hooks(net)
    with pytest.raises(RuntimeError, match='shapes'), FeatureTaps(net, ['first']).record(net):
        net(torch.ones(2, 5))
    assert not hooks(net)


def test_stopping_early_leaves_the_deeper_layers_alone() -> None:
    net = Net()
    features = record(net, 'first', 'pair[1]', stop_early=True)
    assert set(features) == {'first', 'pair[1]'}
    assert (net.pair.calls, net.single.calls, net.deep.calls) == (1, 0, 0)
    assert not hooks(net)


def test_stopping_early_still_waits_for_the_deepest_tap() -> None:
    net = Net()
    assert set(record(net, 'deep', 'first', stop_early=True)) == {'first', 'deep'}
    assert net.deep.calls == 1


def test_taps_of_one_model_record_its_copy() -> None:
    net, copy = Net(), Net()
    taps = FeatureTaps(net, ['first'])
    with taps.record(copy) as features:
        copy(torch.ones(2, 3))
    torch.testing.assert_close(features['first'], copy.first(torch.ones(2, 3)))


class Two(NamedTuple):
    one: Tensor
    two: Tensor


class Sum(nn.Module):
    """Adds up what ``inner`` returns, called twice: first on x, then on the sum."""

    def __init__(self, inner: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner = _Returns(inner)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            y = self.inner(x)
            x = y if isinstance(y, Tensor) else sum(y)
        return x


@pytest.mark.parametrize(
    ('inner', 'tap', 'expected'),
    [
        # x = 1; every call adds 1 (to the sum of what a tuple holds); ten times what is tapped is read instead
        (lambda x: x + 1, 'inner', 10 * (10 * (1 + 1) + 1)),
        (lambda x: x + 1, 'inner#0', 10 * (1 + 1) + 1),
        (lambda x: x + 1, 'inner#1', 10 * (1 + 1 + 1)),
        (lambda x: x + 1, 'inner:input', 10 * (10 * 1 + 1) + 1),
        (lambda x: x + 1, 'inner#1:input', 10 * (1 + 1) + 1),
        (lambda x: x + 1, 'inner#1:input[0]', 10 * (1 + 1) + 1),
        (lambda x: (x + 1,), 'inner#1', 10 * (1 + 1 + 1)),
        (lambda x: (x, x + 1), 'inner#0[-1]', 2 * (1 + 10 * (1 + 1)) + 1),
        (lambda x: [x, x + 1], 'inner#0[0]', 2 * (10 * 1 + 1 + 1) + 1),
        (lambda x: Two(x, x + 1), 'inner#0[1]', 2 * (1 + 10 * (1 + 1)) + 1),
    ],
)
def test_layers_behind_a_tap_read_something_else(
    inner: Callable[[Tensor], object], tap: str, expected: float
) -> None:
    net = Sum(inner)
    plain = net(torch.ones(1))
    with replaced(net, tap, lambda feature: 10 * feature):
        assert net(torch.ones(1)).tolist() == [expected]
    assert torch.equal(net(torch.ones(1)), plain)


def test_a_tap_to_replace_that_is_wrong() -> None:
    net = Net()
    for tap, message in [
        ('fist', r"^tap: expected the path of a module of Net, got 'fist'"),
        ('pair', r"^tap: expected one tensor from 'pair', got 2"),
        ('deep#3', r"^tap: expected 'deep#3' to run in a forward, it was only called 1 times"),
    ]:
        with pytest.raises(ValueError, match=message), replaced(net, tap, torch.zeros_like):
            net(torch.ones(2, 3))
    never = r"^tap: expected 'deep' to run in a forward, it was never called"
    with pytest.raises(ValueError, match=never), replaced(net, 'deep', torch.zeros_like):
        net(torch.ones(2, 3), use=('first',))
    with pytest.raises(RuntimeError, match='shapes'), replaced(net, 'first', torch.zeros_like):
        net(torch.ones(2, 5))
    assert not hooks(net)
