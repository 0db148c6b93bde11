"""Mutual learning, one step at a time, against an explicit loop."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmkd_plugin.models.distillers import MutualDistiller
from mmkd_plugin.models.methods import SoftTarget

ORDERS = ('alternating', 'simultaneous')


def built(*names: str, **changes: Any) -> MutualDistiller:
    return ROOT_MODELS.build(tiny.mutual_config(*names, **changes)).train()


class WatchedOptimizer(OptimWrapper):
    """Passes each loss to a function before the update."""

    def __init__(self, parameters: Any, watch: Callable[[Tensor], None], **options: Any) -> None:
        super().__init__(torch.optim.SGD(parameters, lr=0.1), **options)
        self.watch = watch

    def update_params(self, loss: Tensor, **options: Any) -> None:
        self.watch(loss)
        super().update_params(loss, **options)


def optimizers(
    model: MutualDistiller,
    watch: Callable[[str, Tensor], None] = lambda name, loss: None,
    **options: Any,
) -> OptimWrapperDict:
    return OptimWrapperDict(
        **{
            name: WatchedOptimizer(
                part.parameters(), lambda loss, name=name: watch(name, loss), **options
            )
            for name, part in model.trained_together().items()
        }
    )


def train_by_hand(
    networks: list[nn.Module], inputs: Tensor, labels: Tensor, order: str, steps: int
) -> None:
    """Train as Zhang et al.: by cross-entropy and the mean over the others of KL(p_k || p)."""
    sgd = [torch.optim.SGD(network.parameters(), lr=0.1) for network in networks]

    def probabilities(network: nn.Module) -> Tensor:
        """Evaluate a copy, because the statistics of the network stay as they are."""
        return copy.deepcopy(network)(inputs).detach().softmax(1)

    for _ in range(steps):
        before = [probabilities(network) for network in networks]
        for index, network in enumerate(networks):
            others = [number for number in range(len(networks)) if number != index]
            targets = [
                before[n] if order == 'simultaneous' else probabilities(networks[n]) for n in others
            ]
            logits = network(inputs)
            loss = F.cross_entropy(logits, labels)
            for target in targets:
                divergence = F.kl_div(logits.log_softmax(1), target, reduction='batchmean')
                loss = loss + divergence / len(targets)
            sgd[index].zero_grad()
            loss.backward()
            sgd[index].step()


@pytest.mark.parametrize('names', ['ab', 'abc'])
@pytest.mark.parametrize('order', ORDERS)
def test_train_step_twice_equals_an_explicit_loop(order: str, names: str) -> None:
    model = built(*names, order=order)
    networks = [copy.deepcopy(model.network(name)) for name in names]
    wrappers = optimizers(model)
    for _ in range(2):
        model.train_step(tiny.batch_of(), wrappers)
    batch = model.data_preprocessor(tiny.batch_of(), True)
    train_by_hand(networks, batch['inputs'], torch.arange(8) % 4, order, steps=2)
    for name, expected in zip(names, networks, strict=True):
        found = model.network(name).state_dict()
        # BatchNorm's statistics and the number of their updates are among them.
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def test_train_step_in_two_orders_differs_from_the_second_peer_on() -> None:
    first = built()
    models = dict(alternating=first, simultaneous=copy.deepcopy(first))
    models['simultaneous'].order = 'simultaneous'
    for model in models.values():
        model.train_step(tiny.batch_of(), optimizers(model))
    a, b = ([tiny.weights_of(model.network(name)) for model in models.values()] for name in 'ab')
    assert all(torch.equal(a[0][key], a[1][key]) for key in a[0])
    assert not torch.equal(b[0]['head.fc.weight'], b[1]['head.fc.weight']), (
        'b received the outputs of a after its update'
    )


def test_train_step_with_auxiliary_modules_logs_losses_by_peer() -> None:
    methods = dict(dml=dict(type='SoftTarget', temperature=1.0), **tiny.inherit_explore())
    model = built(methods=methods)
    found = model.train_step(tiny.batch_of(), optimizers(model))
    assert {
        f'{peer}.{part}'
        for peer in 'ab'
        for part in ('loss', 'task.loss', 'dml.loss_kd', 'ie.loss_inherit')
    } | {
        f'auxiliary_{peer}.{part}' for peer in 'ab' for part in ('loss', 'ie.loss_rec')
    } < found.keys()
    own = sum(
        value
        for key, value in found.items()
        if key.startswith('a.') and 'loss' in key and key != 'a.loss'
    )
    torch.testing.assert_close(found['a.loss'], own)
    torch.testing.assert_close(
        found['loss'], sum(found[f'{name}.loss'] for name in model.trained_together())
    )
    assert not any(value.requires_grad for value in found.values()), 'no graph outlives its step'


@pytest.mark.parametrize('order', ORDERS)
def test_train_step_of_a_peer_sends_no_gradient_to_another(order: str) -> None:
    methods = dict(
        dml=dict(type='SoftTarget', temperature=1.0),
        hint=dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer2')]),
        **tiny.inherit_explore(),
    )
    model = built(order=order, methods=methods)
    parts = {name: list(module.parameters()) for name, module in model.trained_together().items()}
    seen = []

    def watch(name: str, loss: Tensor) -> None:
        for other, parameters in parts.items():
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            assert all((gradient is not None) == (other == name) for gradient in found), (
                name,
                other,
            )
        seen.append(name)

    model.train_step(tiny.batch_of(), optimizers(model, watch))
    assert seen == ['auxiliary_a', 'a', 'auxiliary_b', 'b'], 'the four steps of IE-DML'
    assert list(parts) == ['a', 'auxiliary_a', 'b', 'auxiliary_b']


def test_paraphraser_in_a_step_learns_before_it_is_read_and_counts_the_batch_once() -> None:
    model = built(methods=tiny.inherit_explore(paraphraser=dict(norm='bn')))
    order: list[str] = []
    read = []
    auxiliary = model.peers['a'].auxiliary
    auxiliary.register_forward_hook(lambda *_: order.append('learned'))
    assert model.peers['a'].methods.ie.auxiliary is auxiliary.ie, (
        'the method reads the very one that learns'
    )
    encoder = auxiliary.ie.paraphrasers[0].encoder

    def reading(module: nn.Module, args: Any, out: Tensor) -> None:
        order.append('read')
        read.append(out.requires_grad)

    encoder.register_forward_hook(reading)
    wrappers = optimizers(model)
    model.peers['a'].checked = model.peers['b'].checked = True  # no trial of the first batch
    model.train_step(tiny.batch_of(), wrappers)
    assert (order, read) == (['read', 'learned', 'read'], [True, False])
    norms = [module for module in auxiliary.modules() if isinstance(module, _BatchNorm)]
    counts = [norm.num_batches_tracked.item() for norm in norms]
    assert counts and set(counts) == {1}


@pytest.mark.parametrize(('names', 'extra'), [('ab', 2), ('abcd', 6)])
def test_train_step_of_several_peers_runs_each_no_oftener_than_needed(
    names: str, extra: int
) -> None:
    """In alternating order K networks need 2(K − 1) forwards beside the K that learn.

    A network runs again for the others only after an update.
    """
    model = built(*names)
    runs: list[bool] = []
    for name in names:
        model.network(name).backbone.register_forward_hook(
            lambda module, args, out: runs.append(out[0].requires_grad)
        )
    model.train_step(tiny.batch_of(), optimizers(model))
    assert (runs.count(True), runs.count(False)) == (len(names), extra)
    runs.clear()
    model.order = 'simultaneous'
    model.train_step(tiny.batch_of(), optimizers(model))
    assert runs == [True] * len(names)


def test_peer_that_accumulates_gradients_is_not_run_again() -> None:
    model = built()
    wrappers = optimizers(model, accumulative_counts=2)
    runs: list[bool] = []
    model.network('a').backbone.register_forward_hook(
        lambda module, args, out: runs.append(out[0].requires_grad)
    )
    counted = []
    for _ in range(2):
        model.train_step(tiny.batch_of(), wrappers)
        counted.append(len(runs))
    assert counted == [1, 3], 'its weights moved in the second step alone'


def test_peer_in_eval_mode_uses_its_running_statistics() -> None:
    model = built()
    frozen = model.network('b').eval()
    before = tiny.weights_of(frozen)
    outputs: list[Tensor] = []
    frozen.head.register_forward_hook(lambda module, args, out: outputs.append(out.detach()))
    wrappers = optimizers(model)
    model.train_step(tiny.batch_of(), wrappers)
    assert torch.equal(*outputs), 'the same for the other peer and for its own losses'
    assert all(torch.equal(v, frozen.state_dict()[k]) for k, v in before.items() if 'running' in k)


def test_soft_target_with_several_teachers_has_the_gradient_of_the_mean_divergence() -> None:
    """DML averages KL(p_k || q) over the others, and their mean m gives KL(m || q).

    The difference is the mean of KL(p_k || m), which does not depend on q.
    """
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    others = torch.randn(3, 5, 4, dtype=torch.float64)
    student, teachers = tiny.output(logits), [tiny.output(other) for other in others]
    method = tiny.built(SoftTarget(temperature=1.0), student, teachers)
    ours = method(student, teachers, None)['loss_kd']
    log_q = logits.log_softmax(1)
    theirs = sum(F.kl_div(log_q, other.softmax(1), reduction='batchmean') for other in others) / 3
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)
    mean = others.softmax(2).mean(0)
    spread = (
        sum(F.kl_div(mean.log(), other.softmax(1), reduction='batchmean') for other in others) / 3
    )
    torch.testing.assert_close(theirs - ours, spread)


def test_peers_with_changed_methods_have_their_own_instances() -> None:
    peers = tiny.mutual_config()['peers']
    peers[1]['methods'] = dict(dml=dict(temperature=3.0), hint=dict(loss_weight=0.0))
    hint = dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer3')])
    model = built(
        peers=peers, methods=dict(dml=dict(type='SoftTarget', temperature=1.0), hint=hint)
    )
    a, b = model.all_peers()
    assert (a.methods.dml.temperature, b.methods.dml.temperature) == (1.0, 3.0)
    assert (list(a.methods), list(b.methods)) == (['dml', 'hint'], ['dml'])
    assert (a.tapped.observed_taps, b.tapped.observed_taps) == (set(), {'backbone.layer3'})
    assert a.tapped.needs_scores and b.tapped.needs_scores


def test_pair_index_among_three_peers_chooses_the_other_peer() -> None:
    pairs = [
        dict(student='backbone.layer1', teacher='backbone.layer2', index=0),
        dict(student='backbone.layer1', teacher='backbone.layer3', index=1),
    ]
    model = built(*'abc', methods=dict(hint=dict(type='Hint', pairs=pairs)))
    # a is first for b and c; b is first for a, and second for c
    assert {peer.name: peer.tapped.observed_taps for peer in model.all_peers()} == {
        'a': {'backbone.layer2'},
        'b': {'backbone.layer2', 'backbone.layer3'},
        'c': {'backbone.layer3'},
    }
    model.train_step(tiny.batch_of(), optimizers(model))


def test_prediction_of_a_named_peer_is_its_own() -> None:
    model = built(predict='b').eval()
    for one, other in zip(
        model.test_step(tiny.batch_of()), model.network('b').test_step(tiny.batch_of()), strict=True
    ):
        assert torch.equal(one.pred_score, other.pred_score)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(images), model.network('b')(images))


def test_prediction_of_the_ensemble_is_the_mean_of_probabilities() -> None:
    model = built(predict='ensemble').eval()
    predictions = model.predictions(tiny.batch_of())
    assert list(predictions) == ['a', 'b', 'ensemble']
    for a, b, mean, predicted in zip(
        *predictions.values(), model.test_step(tiny.batch_of()), strict=True
    ):
        torch.testing.assert_close(mean.pred_score, (a.pred_score + b.pred_score) / 2)
        assert mean.pred_label == mean.pred_score.argmax()
        assert torch.equal(mean.pred_score, predicted.pred_score)
    images = torch.randn(2, 3, 8, 8)
    with raises_config_error('predict', 'ensemble', "['a', 'b']", fix='test_step'):
        model(images)


def test_peer_with_its_own_preprocessing_receives_its_own_inputs() -> None:
    peers = tiny.mutual_config()['peers']
    peers[1]['data_preprocessor'] = {**tiny.preprocessor(), 'mean': [0.0] * 3}
    model = built(peers=peers)
    seen: dict[str, list[Tensor]] = {'a': [], 'b': []}
    for name in 'ab':
        model.network(name).backbone.register_forward_pre_hook(
            lambda m, args, name=name: seen[name].append(args[0])
        )
    model.train_step(tiny.batch_of(), optimizers(model))
    model.eval().predictions(tiny.batch_of())
    for a, b in zip(seen['a'], seen['b'], strict=True):
        torch.testing.assert_close(b - a, torch.full_like(a, 2.0))
    assert len(seen['a']) == 3


def test_train_step_without_labels_at_task_weight_zero_logs_the_methods() -> None:
    model = built(task_weight=0.0)
    found = model.train_step(tiny.batch_of(labels=False), optimizers(model))
    assert found.keys() == {
        'loss',
        *(f'{peer}.{part}' for peer in 'ab' for part in ('loss', 'dml.loss_kd')),
    }


def test_train_step_under_autocast_logs_float32() -> None:
    class Half(WatchedOptimizer):
        def optim_context(self, model: nn.Module) -> Any:
            return torch.autocast('cpu', torch.bfloat16)

    model = built()
    dtypes: list[torch.dtype] = []
    for name in 'ab':
        model.network(name).head.register_forward_hook(
            lambda module, args, out: dtypes.append(out.dtype)
        )
    wrappers = optimizers(model)
    halves = {
        name: Half(wrapper.optimizer.param_groups[0]['params'], lambda loss: None)
        for name, wrapper in wrappers.items()
    }
    found = model.train_step(tiny.batch_of(), OptimWrapperDict(**halves))
    assert dtypes == [torch.bfloat16] * 4, 'outputs for a peer have its precision'
    assert {value.dtype for value in found.values()} == {torch.float32}


@pytest.mark.parametrize('count', [1, 2])
def test_train_step_of_one_or_two_images_is_finite(count: int) -> None:
    model = built(methods=dict(dml=dict(type='SoftTarget'), **tiny.inherit_explore()))
    found = model.train_step(tiny.batch_of(count), optimizers(model))
    assert all(value.isfinite().all() for value in found.values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_first_peer_draws_the_random_numbers_of_a_plain_build() -> None:
    torch.manual_seed(9)
    alone = ROOT_MODELS.build(dict(tiny.classifier(), _scope_='mmpretrain'))
    after = torch.rand(1).item()
    torch.manual_seed(9)
    model = built()
    assert after == torch.rand(1).item()
    assert all(
        torch.equal(a, b)
        for a, b in zip(alone.parameters(), model.network('a').parameters(), strict=True)
    )


def test_peers_of_one_config_begin_with_different_weights() -> None:
    model = built(peers=[tiny.classifier(), tiny.classifier()])
    model.init_weights()
    weights = [model.network(name).backbone.conv1.weight for name in model.names]
    assert model.names == ['peer0', 'peer1'] and not torch.equal(*weights)
