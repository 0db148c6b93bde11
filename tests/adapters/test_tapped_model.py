"""A network that is run and read: what is recorded, at which cost, and what is refused."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from torch import Tensor, nn

from mmkd_plugin.adapters import TappedModel
from mmkd_plugin.adapters.replaced import replaced
from mmkd_plugin.outputs import NetworkOutput


class Returns(nn.Module):
    """A layer that returns ``function(x)`` and counts its calls."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function
        self.calls = 0

    def forward(self, x: Tensor) -> object:
        self.calls += 1
        return self.function(x)


class Net(nn.Module):
    """Layers that return a tensor, two, a tuple of one, a dict or lists, in the order ``use``."""

    def __init__(self, *use: str) -> None:
        super().__init__()
        self.use = use or ('first', 'pair', 'single', 'words', 'deep')
        self.first = nn.Linear(3, 4)
        self.act = nn.ReLU(inplace=True)
        self.pair = Returns(lambda x: (x, 2 * x))
        self.single = Returns(lambda x: (x,))
        self.words = Returns(lambda x: {'x': x})
        self.lists = Returns(lambda x: ([x, 3 * x], [x]))
        self.deep = Returns(lambda x: x + 1)

    def forward(self, x: Tensor, data_samples: None = None, mode: str = 'tensor') -> Tensor:
        for name in self.use:
            y = self.get_submodule(name)(x)
            x = y if isinstance(y, Tensor) else next(iter(y.values() if isinstance(y, dict) else y))
        return x


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def record(net: nn.Module, *taps: str, images: Tensor | None = None) -> dict[str, Tensor]:
    images = torch.ones(2, 3) if images is None else images
    tapped = TappedModel(net, 'net')
    tapped.request(taps)
    with tapped.recording(images) as recording:
        net(images)
    return dict(recording.output.features)


def observe(net: nn.Module, *taps: str) -> dict[str, Tensor]:
    tapped = TappedModel(net, 'net')
    tapped.request(taps)
    return dict(tapped.observe(torch.ones(2, 3)).features)


#: Both ways to read a network must agree on everything but the cost.
BOTH = pytest.mark.parametrize('read', [record, observe])


@BOTH
def test_read_output_of_a_module_with_its_gradient(read: Callable[..., Any]) -> None:
    net = Net()
    features = read(net, 'first', 'deep')
    torch.testing.assert_close(features['first'], net.first(torch.ones(2, 3)))
    torch.testing.assert_close(features['deep'], features['first'] + 1)
    features['deep'].sum().backward()
    assert net.first.bias.grad.tolist() == [2.0] * 4  # two images


@BOTH
def test_read_index_picks_one_of_several_tensors(read: Callable[..., Any]) -> None:
    taps = ('pair[0]', 'pair[1]', 'pair[-1]', 'single', 'single[0]', 'single[-1]')
    features = read(Net(), *taps)
    torch.testing.assert_close(features['pair[1]'], 2 * features['pair[0]'])
    assert features['pair[-1]'] is features['pair[1]']
    assert features['single'] is features['single[0]'] is features['single[-1]']


def test_read_lists_in_a_tuple_have_an_index_each() -> None:
    features = record(Net('first', 'lists'), 'first', 'lists[0][0]', 'lists[0][-1]', 'lists[1]')
    assert features['lists[0][0]'] is features['lists[1]'] is features['first']
    torch.testing.assert_close(features['lists[0][-1]'], 3 * features['first'])


def test_request_repeated_taps_are_recorded_once() -> None:
    assert list(record(Net(), 'first', 'deep', 'first')) == ['first', 'deep']


def test_request_replaces_the_request_before() -> None:
    net = TappedModel(Net(), 'net')
    net.request(['first', 'deep'])
    net.request(['pair[0]'])
    assert list(net.observe(torch.ones(2, 3)).features) == ['pair[0]']


@pytest.mark.parametrize('observed', [False, True])
def test_request_unknown_module_is_refused_for_both_ways_to_read(observed: bool) -> None:
    net = TappedModel(Net(), 'student')
    taps = ['first'], ['fist']
    with raises_config_error('student', 'fist', 'Net', fix="'first'"):
        net.request(*taps[:1], observed=taps[1]) if observed else net.request(taps[1])


def test_parse_names_the_config_key_and_the_network() -> None:
    with raises_config_error('pairs[0].student', 'fist', 'student (Net)', fix="'first'"):
        TappedModel(Net(), 'student').parse(['first', 'fist'], 'pairs[0].student')


def test_request_observed_taps_differ_from_recorded_ones() -> None:
    """A peer is recorded for its own methods and observed for those of its peers."""
    net = TappedModel(Net(), 'peers[0]')
    net.request(['first', 'deep'], observed=['pair[1]'])
    with net.recording(None) as recording:
        net.model(torch.ones(2, 3))
    assert list(recording.output.features) == ['first', 'deep']
    net.model.deep.calls = 0
    assert list(net.observe(torch.ones(2, 3)).features) == ['pair[1]']
    assert net.model.deep.calls == 0


def test_observe_without_requests_does_not_run_the_network() -> None:
    net = TappedModel(Net(), 'net')
    for request in (lambda: None, lambda: net.request(['first'], observed=[])):
        request()
        output = net.observe(torch.ones(2, 3))
        assert (output.scores, dict(output.features)) == (None, {})
    assert net.model.deep.calls == net.model.pair.calls == 0


def test_request_scores_of_an_unknown_model_is_refused() -> None:
    fix = 'Use methods on taps alone, or register a score reader'
    net = TappedModel(Net(), 'teachers[0]')
    with raises_config_error('teachers[0]', ANY, 'class scores of Net', 'no adapter', fix=fix):
        net.request(['first'], scores=True)


@pytest.mark.parametrize('scores', [False, True])
def test_read_scores_beside_a_tap_on_the_same_module(scores: bool) -> None:
    """The score tap of a classifier is its head, which a method may tap as well."""
    net = TappedModel(tiny.network(tiny.classifier()).eval(), 'student')
    net.request(['neck', 'head'], scores)
    batch = net.model.data_preprocessor(tiny.batch_of(), True)
    with net.recording(batch['inputs'], batch['data_samples']) as recording:
        net.model(**batch, mode='loss')
    outputs = recording.output, net.observe(batch['inputs'])
    assert not hooks(net.model)
    for output in outputs:
        assert list(output.features) == ['neck', 'head']
        assert (output.scores is not None) is scores
        if scores:
            assert torch.equal(output.scores.logits[:, 0], output.feature('head'))
    assert torch.equal(outputs[0].feature('head'), outputs[1].feature('head'))


def test_observe_with_scores_reaches_the_head_behind_an_early_tap() -> None:
    net = TappedModel(tiny.network(tiny.classifier()).eval(), 'student')
    net.request(['backbone.layer1'], scores=True)
    output = net.observe(torch.randn(2, 3, 8, 8))
    assert output.scores.logits.shape == (2, 1, tiny.CLASSES)
    assert output.feature('backbone.layer1').shape == (2, 4, 8, 8)


@BOTH
@pytest.mark.parametrize(
    ('tap', 'fix'),
    [
        ('pair', "'pair[0]' … 'pair[1]'"),
        ('lists[0]', "'lists[0][0]' … 'lists[0][1]'"),
        ('first[1]', 'Leave the index out'),
        ('words', 'Tap another module'),
    ],
)
def test_read_no_single_tensor_is_an_error_of_the_network(
    read: Callable[..., Any], tap: str, fix: str
) -> None:
    net = Net('first', 'pair', 'words', 'lists')
    with raises_config_error('net', tap, fix=fix):
        read(net, tap)
    assert not hooks(net)


@BOTH
def test_read_shared_module_needs_the_number_of_a_call(read: Callable[..., Any]) -> None:
    net = Net('first', 'deep', 'deep')
    features = read(net, 'deep#0', 'deep#1', 'deep#1:input')
    torch.testing.assert_close(features['deep#1'], features['deep#0'] + 1)
    assert features['deep#1:input'] is features['deep#0']
    with raises_config_error('net', 'deep#2', 'only 2 times'):
        read(net, 'deep#2')
    assert not hooks(net)


def test_recording_shared_module_without_a_number_is_an_error() -> None:
    net = Net('first', 'deep', 'deep')
    for tap, fix in (('deep', "'deep#0'"), ('deep:input', "'deep#0:input'")):
        with raises_config_error('net', tap, 'several times', fix=fix):
            record(net, tap)
        assert not hooks(net)


def test_recording_once_in_each_of_two_forwards_is_no_error() -> None:
    net = TappedModel(Net(), 'net')
    net.request(['deep'])
    for factor in (1.0, 2.0):
        with net.recording(None) as recording:
            expected = net.model(torch.full((2, 3), factor))
        assert torch.equal(recording.output.feature('deep'), expected)


@BOTH
def test_read_input_of_a_module_with_its_gradient(read: Callable[..., Any]) -> None:
    net = Net()
    features = read(net, 'deep:input', 'first')
    torch.testing.assert_close(features['deep:input'], features['first'])
    features['deep:input'].sum().backward()
    assert net.first.bias.grad.tolist() == [2.0] * 4
    assert not hooks(net)


@BOTH
def test_read_input_of_a_layer_in_place_stays_as_it_was(read: Callable[..., Any]) -> None:
    net = Net('first', 'act')
    expected = net.first(torch.ones(2, 3)).detach()
    assert expected.min() < 0
    features = read(net, 'act:input', 'act')
    torch.testing.assert_close(features['act:input'], expected)
    torch.testing.assert_close(features['act'], expected.relu())
    features['act:input'].sum().backward()
    assert net.first.bias.grad.tolist() == [2.0] * 4


@BOTH
def test_read_module_that_does_not_run_is_an_error(read: Callable[..., Any]) -> None:
    with raises_config_error('net', 'deep', 'does not run in this forward', fix='inspect_taps.py'):
        read(Net('first'), 'first', 'deep')


def test_read_optional_tap_may_not_run() -> None:
    net = TappedModel(Net('first'), 'net')
    net.adapter.optional_taps = frozenset(['deep'])
    net.request(['first', 'deep'])
    with net.recording(None) as recording:
        net.model(torch.ones(2, 3))
    assert list(recording.output.features) == ['first']


@pytest.mark.parametrize('gradient', [True, False])
def test_recording_tensor_changed_in_place_later_is_an_error(gradient: bool) -> None:
    net = Net('first', 'act')
    with torch.set_grad_enabled(gradient):
        with raises_config_error('net', 'first', 'in place', fix='Tap that later layer'):
            record(net, 'first')
        assert not hooks(net)
        assert record(net, 'act')['act'].min() >= 0  # the layer that changes it may be tapped


def test_recording_view_of_a_changed_tensor_is_an_error_too() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.ReLU(inplace=True))
    with raises_config_error('net', '1', 'in place'):
        record(net, '1')


def test_read_any_exception_of_the_network_removes_the_hooks() -> None:
    net = TappedModel(Net(), 'net')
    net.request(['first', 'deep:input'])
    wrong = torch.ones(2, 5)
    with pytest.raises(RuntimeError, match='shapes'), net.recording(wrong):
        net.model(wrong)
    assert not hooks(net.model)
    with pytest.raises(RuntimeError, match='shapes'):
        net.observe(wrong)
    assert not hooks(net.model)
    with pytest.raises(KeyboardInterrupt), net.recording(None):
        raise KeyboardInterrupt
    assert not hooks(net.model)


def test_recording_output_is_not_set_before_the_body_ends() -> None:
    net = TappedModel(Net(), 'net')
    net.request(['first'])
    with net.recording(None) as recording:
        assert not hasattr(recording, 'output')
        net.model(torch.ones(2, 3))
    assert isinstance(recording.output, NetworkOutput)


def test_observe_stops_at_the_deepest_tap() -> None:
    net = Net()
    assert set(observe(net, 'first', 'pair[1]')) == {'first', 'pair[1]'}
    assert (net.pair.calls, net.single.calls, net.deep.calls) == (1, 0, 0)
    assert not hooks(net)
    assert set(observe(net, 'deep', 'first')) == {'first', 'deep'}
    assert net.deep.calls == 1


def test_observe_input_tap_stops_before_its_module() -> None:
    net = Net()
    assert set(observe(net, 'deep:input')) == {'deep:input'}
    assert net.deep.calls == 0


def test_deepcopy_taps_the_copied_network() -> None:
    """EMA copies a distiller, which holds its student both as a module and tapped."""
    net = TappedModel(Net(), 'net')
    net.request(['first'])
    model, copied = copy.deepcopy([net.model, net])
    assert copied.model is model is not net.model
    nn.init.constant_(model.first.weight, 5.0)
    torch.testing.assert_close(
        copied.observe(torch.ones(2, 3)).feature('first'), model.first(torch.ones(2, 3))
    )


class Two(NamedTuple):
    one: Tensor
    two: Tensor


class Sum(nn.Module):
    """The sum of what ``inner`` returns; it runs twice: first on x, then on the sum."""

    def __init__(self, inner: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner = Returns(inner)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            y = self.inner(x)
            x = y if isinstance(y, Tensor) else sum(y)
        return x


@pytest.mark.parametrize(
    ('inner', 'tap', 'expected'),
    [
        # x = 1; every call adds 1 (to the sum of a tuple); ten times the tapped tensor is passed on
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
def test_replaced_passes_another_tensor_to_the_layers_behind(
    inner: Callable[[Tensor], object], tap: str, expected: float
) -> None:
    net = Sum(inner)
    plain = net(torch.ones(1))
    with replaced(net, tap, lambda feature: 10 * feature, 'tap'):
        assert net(torch.ones(1)).tolist() == [expected]
    assert torch.equal(net(torch.ones(1)), plain)


@pytest.mark.parametrize(
    ('use', 'tap', 'mentions'),
    [
        ((), 'fist', 'no module'),
        ((), 'pair', 'returns 2 tensors'),
        ((), 'deep#3', 'only 1 times'),
        (('first',), 'deep', 'does not run'),
    ],
)
def test_replaced_wrong_tap_is_an_error_of_the_key(
    use: tuple[str, ...], tap: str, mentions: str
) -> None:
    net = Net(*use)
    with raises_config_error('tap', tap, mentions), replaced(net, tap, torch.zeros_like, 'tap'):
        net(torch.ones(2, 3))
    assert not hooks(net)


def test_replaced_any_exception_of_the_network_removes_the_hook() -> None:
    net = Net()
    replacing = replaced(net, 'first', torch.zeros_like, 'tap')
    with pytest.raises(RuntimeError, match='shapes'), replacing:
        net(torch.ones(2, 5))
    assert not hooks(net)
