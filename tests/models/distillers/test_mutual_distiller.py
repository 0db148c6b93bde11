"""Mutual learning, one step at a time, against a loop written out by hand."""

import copy
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmkd_plugin.models.distillers import MutualDistiller

ORDERS = ('alternating', 'simultaneous')


def built(*names: str, **changes: Any) -> MutualDistiller:
    return ROOT_MODELS.build(tiny.mutual_config(*names, **changes)).train()


class Told(OptimWrapper):
    """Tells each loss before it is used."""

    def __init__(self, parameters: Any, told: Any, **options: Any) -> None:
        super().__init__(torch.optim.SGD(parameters, lr=0.1), **options)
        self.told = told

    def update_params(self, loss: Tensor, **options: Any) -> None:
        self.told(loss)
        super().update_params(loss, **options)


def optimizers(
    model: MutualDistiller, told: Any = lambda name, loss: None, **options: Any
) -> OptimWrapperDict:
    return OptimWrapperDict(
        **{
            name: Told(
                [p for part in parts for p in part.parameters()],
                lambda loss, name=name: told(name, loss),
                **options,
            )
            for name, parts in model.trained_together().items()
        }
    )


def by_hand(
    networks: list[nn.Module], inputs: Tensor, labels: Tensor, order: str, steps: int
) -> None:
    """Zhang et al.: each network by cross-entropy and by the mean over the others of KL(p_k || p)."""
    sgd = [torch.optim.SGD(network.parameters(), lr=0.1) for network in networks]

    def answer(network: nn.Module) -> Tensor:
        """Of a copy: a network that is asked does not change."""
        return copy.deepcopy(network)(inputs).detach().softmax(1)

    for _ in range(steps):
        before = [answer(network) for network in networks]
        for index, network in enumerate(networks):
            others = [number for number in range(len(networks)) if number != index]
            said = [before[n] if order == 'simultaneous' else answer(networks[n]) for n in others]
            logits = network(inputs)
            loss = F.cross_entropy(logits, labels)
            for target in said:
                loss = loss + F.kl_div(logits.log_softmax(1), target, reduction='batchmean') / len(
                    said
                )
            sgd[index].zero_grad()
            loss.backward()
            sgd[index].step()


@pytest.mark.parametrize('names', ['ab', 'abc'])
@pytest.mark.parametrize('order', ORDERS)
def test_two_steps_are_those_of_a_loop_by_hand(order: str, names: str) -> None:
    model = built(*names, order=order)
    networks = [copy.deepcopy(model.network(name)) for name in names]
    wrappers = optimizers(model)
    for _ in range(2):
        model.train_step(tiny.batch_of(), wrappers)
    batch = model.data_preprocessor(tiny.batch_of(), True)
    by_hand(networks, batch['inputs'], torch.arange(8) % 4, order, steps=2)
    for name, expected in zip(names, networks, strict=True):
        found = model.network(name).state_dict()
        for (
            key,
            value,
        ) in (
            expected.state_dict().items()
        ):  # BatchNorm's statistics, and how often they moved, among them
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def test_the_orders_differ_from_the_second_peer_on() -> None:
    first = built()
    models = dict(alternating=first, simultaneous=copy.deepcopy(first))
    models['simultaneous'].order = 'simultaneous'
    for model in models.values():
        model.train_step(tiny.batch_of(), optimizers(model))
    a, b = ([tiny.weights_of(model.network(name)) for model in models.values()] for name in 'ab')
    assert all(torch.equal(a[0][key], a[1][key]) for key in a[0])
    assert not torch.equal(b[0]['head.fc.weight'], b[1]['head.fc.weight']), (
        'b saw a after it had learned'
    )


def test_what_is_logged() -> None:
    logged = built(
        methods=dict(dml=dict(type='SoftTarget', temperature=1.0), **tiny.inherit_explore())
    ).train_step
    model = logged.__self__
    found = logged(tiny.batch_of(), optimizers(model))
    assert {
        f'{peer}.{part}'
        for peer in 'ab'
        for part in ('loss', 'task.loss', 'dml.loss_kd', 'ie.loss_inherit')
    } | {f'apart_{peer}.{part}' for peer in 'ab' for part in ('loss', 'ie.loss_rec')} < found.keys()
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
def test_no_gradient_crosses_from_peer_to_peer(order: str) -> None:
    methods = dict(
        dml=dict(type='SoftTarget', temperature=1.0),
        hint=dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer2')]),
        **tiny.inherit_explore(),
    )
    model = built(order=order, methods=methods)
    parts = {
        name: [parameter for module in modules for parameter in module.parameters()]
        for name, modules in model.trained_together().items()
    }
    seen = []

    def told(name: str, loss: Tensor) -> None:
        for other, parameters in parts.items():
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            assert all((gradient is not None) == (other == name) for gradient in found), (
                name,
                other,
            )
        seen.append(name)

    model.train_step(tiny.batch_of(), optimizers(model, told))
    assert seen == ['apart_a', 'a', 'apart_b', 'b'], 'the four steps of IE-DML'
    assert list(parts) == ['a', 'apart_a', 'b', 'apart_b']


def test_a_paraphraser_learns_before_it_is_read_and_counts_the_batch_once() -> None:
    model = built(methods=tiny.inherit_explore(paraphraser=dict(norm='bn')))
    order: list[str] = []
    read = []
    apart = model.apart_a
    apart.register_forward_hook(lambda *_: order.append('learned'))
    assert model.lessons_a.methods.ie.apart is apart.connectors.ie, (
        'the method reads the very one that learns'
    )
    encoder = apart.connectors.ie.paraphrasers[0].encoder

    def reading(module: nn.Module, args: Any, out: Tensor) -> None:
        order.append('read')
        read.append(out.requires_grad)

    encoder.register_forward_hook(reading)
    model.train_step(tiny.batch_of(), optimizers(model))
    assert (order, read) == (['read', 'learned', 'read'], [True, False])
    counts = [m.num_batches_tracked.item() for m in apart.modules() if isinstance(m, _BatchNorm)]
    assert counts and set(counts) == {1}


@pytest.mark.parametrize(
    ('order', 'names', 'extra'), [*((o, 'ab', 2) for o in ORDERS[:1]), (ORDERS[0], 'abcd', 6)]
)
def test_how_often_a_network_runs(order: str, names: str, extra: int) -> None:
    """Asked are those alone that nobody has asked since they last learned: 2(K − 1) forwards beside the K of learning."""
    model = built(*names, order=order)
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


def test_who_only_accumulates_gradients_is_not_asked_again() -> None:
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


def test_layers_in_eval_mode_answer_by_their_running_statistics() -> None:
    model = built()
    frozen = model.network('b').eval()
    before = tiny.weights_of(frozen)
    told: list[Tensor] = []
    frozen.head.register_forward_hook(lambda module, args, out: told.append(out.detach()))
    wrappers = optimizers(model)
    model.train_step(tiny.batch_of(), wrappers)
    assert torch.equal(told[0], told[1]), 'as it learned, so it was asked'
    assert all(torch.equal(v, frozen.state_dict()[k]) for k, v in before.items() if 'running' in k)


def test_the_mean_of_divergences_teaches_as_the_divergence_from_the_mean() -> None:
    """DML averages KL(p_k || q) over the others. Their mean m gives KL(m || q), less by the mean of KL(p_k || m), which q is not in."""
    from mmkd_plugin.models.methods import SoftTarget

    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    others = torch.randn(3, 5, 4, dtype=torch.float64)
    method = SoftTarget(temperature=1.0)
    ours = method(tiny.knowledge(logits), [tiny.knowledge(other) for other in others], None)[
        'loss_kd'
    ]
    log_q = logits.log_softmax(1)
    theirs = sum(F.kl_div(log_q, other.softmax(1), reduction='batchmean') for other in others) / 3
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)
    mean = others.softmax(2).mean(0)
    spread = (
        sum(F.kl_div(mean.log(), other.softmax(1), reduction='batchmean') for other in others) / 3
    )
    torch.testing.assert_close(theirs - ours, spread)


def test_every_learner_has_its_own_method_with_its_own_changes() -> None:
    peers = tiny.mutual_config()['peers']
    peers[1]['methods'] = dict(dml=dict(temperature=3.0), hint=dict(loss_weight=0.0))
    hint = dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer3')])
    model = built(
        peers=peers, methods=dict(dml=dict(type='SoftTarget', temperature=1.0), hint=hint)
    )
    assert [model.lessons_a.methods.dml.temperature, model.lessons_b.methods.dml.temperature] == [
        1.0,
        3.0,
    ]
    assert [list(lessons.methods) for lessons in (model.lessons_a, model.lessons_b)] == [
        ['dml', 'hint'],
        ['dml'],
    ]
    assert (model.taps['a'].asked.taps, model.taps['b'].asked.taps) == (
        ('head',),
        ('backbone.layer3', 'head'),
    )


def test_a_tap_of_each_other_peer_by_its_place_among_them() -> None:
    pairs = [
        dict(student='backbone.layer1', teacher='backbone.layer2', index=0),
        dict(student='backbone.layer1', teacher='backbone.layer3', index=1),
    ]
    model = built(*'abc', methods=dict(hint=dict(type='Hint', pairs=pairs)))
    asked = {
        name: set(model.taps[name].asked.taps) for name in 'abc'
    }  # a is first for b and c; b for a, and second for c
    assert asked == {
        'a': {'backbone.layer2'},
        'b': {'backbone.layer2', 'backbone.layer3'},
        'c': {'backbone.layer3'},
    }
    model.train_step(tiny.batch_of(), optimizers(model))


def test_prediction_is_a_named_peers() -> None:
    model = built(predict='b').eval()
    for one, other in zip(
        model.test_step(tiny.batch_of()), model.network('b').test_step(tiny.batch_of()), strict=True
    ):
        assert torch.equal(one.pred_score, other.pred_score)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(images), model.network('b')(images))


def test_the_ensembles_prediction_is_the_mean_of_probabilities() -> None:
    model = built(predict='ensemble').eval()
    answers = model.answers(tiny.batch_of())
    assert list(answers) == ['a', 'b', 'ensemble']
    for a, b, mean, predicted in zip(
        *answers.values(), model.test_step(tiny.batch_of()), strict=True
    ):
        torch.testing.assert_close(mean.pred_score, (a.pred_score + b.pred_score) / 2)
        assert mean.pred_label == mean.pred_score.argmax()
        assert torch.equal(mean.pred_score, predicted.pred_score)
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(
        ValueError,
        match=r"^predict: expected one of \['a', 'b'\] for a bare forward, got 'ensemble'$",
    ):
        model(images)


def test_each_peer_sees_its_own_input_contract() -> None:
    peers = tiny.mutual_config()['peers']
    peers[1]['data_preprocessor'] = {**tiny.PREPROCESSOR, 'mean': [0.0] * 3}
    model = built(peers=peers)
    seen: dict[str, list[Tensor]] = {'a': [], 'b': []}
    for name in 'ab':
        model.network(name).backbone.register_forward_pre_hook(
            lambda m, args, name=name: seen[name].append(args[0])
        )
    model.train_step(tiny.batch_of(), optimizers(model))
    model.eval().answers(tiny.batch_of())
    for a, b in zip(seen['a'], seen['b'], strict=True):
        torch.testing.assert_close(b - a, torch.full_like(a, 2.0))
    assert len(seen['a']) == 3


def test_without_labels_at_task_weight_zero() -> None:
    model = built(task_weight=0.0)
    found = model.train_step(tiny.batch_of(labels=False), optimizers(model))
    assert found.keys() == {
        'loss',
        *(f'{peer}.{part}' for peer in 'ab' for part in ('loss', 'dml.loss_kd')),
    }


def test_half_precision_where_the_optimizer_says_so() -> None:
    class Half(Told):
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
    assert dtypes == [torch.bfloat16] * 4, 'whoever is asked answers in the precision of who learns'
    assert {value.dtype for value in found.values()} == {torch.float32}


@pytest.mark.parametrize('count', [1, 2])
def test_a_last_batch_of_one_or_two_images_trains(count: int) -> None:
    model = built(methods=dict(dml=dict(type='SoftTarget'), **tiny.inherit_explore()))
    found = model.train_step(tiny.batch_of(count), optimizers(model))
    assert all(value.isfinite().all() for value in found.values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_first_peers_random_numbers_are_those_of_a_plain_build() -> None:
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
