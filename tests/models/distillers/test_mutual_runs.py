"""Mutual learning in a real Runner."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.checkpoints import state_of
from helpers.errors import raises_config_error
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

DML = dict(dml=dict(type='SoftTarget', temperature=1.0))
BOTH = {**DML, **tiny.inherit_explore()}
OPTIMIZERS = ('a', 'b', 'auxiliary_a', 'auxiliary_b')

VALIDATION = tiny.validation(val_cfg=dict(type='mmkd_plugin.PeerValLoop'))


def run_of(
    folder: Path,
    *names: str,
    optim: dict[str, Any] | None = None,
    model: Any = None,
    **settings: Any,
) -> Runner:
    config = tiny.mutual_config(*names, **{'methods': BOTH, **(model or {})})
    return tiny.runner(config, folder, optim_wrapper=optim or tiny.peer_optimizers(), **settings)


@pytest.mark.parametrize('order', ['alternating', 'simultaneous'])
def test_run_of_two_iterations_moves_all_that_learns(tmp_path: Path, order: str) -> None:
    run = run_of(tmp_path, model=dict(order=order))
    run.model.init_weights = lambda: None
    before = tiny.weights_of(run.model)
    run.train()
    still = set(before) - set(tiny.differing(before, run.model.state_dict()))
    assert still == {
        'record.began',
        *(
            f'peers.{name}.methods.ie.splits.0.{index}'
            for name in 'ab'
            for index in ('inherit_index', 'explore_index')
        ),
    }
    logged = MessageHub.get_current_instance().log_scalars
    assert {f'train/{name}.lr' for name in OPTIMIZERS} < logged.keys()
    assert {
        'train/loss',
        'train/a.loss',
        'train/b.dml.loss_kd',
        'train/auxiliary_a.ie.loss_rec',
    } < logged.keys()


@pytest.mark.parametrize('order', ['alternating', 'simultaneous'])
def test_run_that_resumes_ends_where_an_unbroken_one_does(tmp_path: Path, order: str) -> None:
    settings = dict(
        param_scheduler=dict(type='ExponentialLR', gamma=0.5, by_epoch=False, end=99),
        model=dict(order=order),
    )
    unbroken = run_of(tmp_path / 'one', iters=4, **settings)
    unbroken.train()
    run_of(tmp_path / 'two', iters=2, **settings).train()
    resumed = run_of(tmp_path / 'two', iters=4, resume=True, **settings)
    resumed.train()
    assert resumed.iter == 4
    assert tiny.differing(unbroken.model.state_dict(), resumed.model.state_dict()) == []
    for name, wrapper in unbroken.optim_wrapper.items():
        momenta = [
            [s['momentum_buffer'] for s in w.optimizer.state.values()]
            for w in (wrapper, resumed.optim_wrapper[name])
        ]
        assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True)) and momenta[0]
        assert resumed.optim_wrapper[name].get_lr() == wrapper.get_lr()


@pytest.mark.parametrize('names', ['abc', 'ac'])
def test_run_that_resumes_with_other_peers_is_refused(tmp_path: Path, names: str) -> None:
    run_of(tmp_path, model=dict(methods=DML)).train()
    resumed = run_of(tmp_path, *names, iters=4, resume=True, model=dict(methods=DML))
    with raises_config_error('peers', ', '.join(names), "'a, b'", fix='start a new run'):
        resumed.train()


def test_run_that_resumes_with_peers_in_another_order_goes_on(tmp_path: Path) -> None:
    run_of(tmp_path, model=dict(methods=DML)).train()
    peers = tiny.mutual_config()['peers'][::-1]
    resumed = run_of(tmp_path, iters=3, resume=True, model=dict(methods=DML, peers=peers))
    resumed.train()
    assert (resumed.iter, resumed.model.names) == (3, ['b', 'a'])


def test_run_that_resumes_without_its_auxiliary_modules_is_refused(tmp_path: Path) -> None:
    run_of(tmp_path).train()
    resumed = run_of(tmp_path, iters=4, resume=True, model=dict(methods=DML))
    with raises_config_error('optim_wrapper', ['a', 'b'], 'auxiliary_a', fix='start a new run'):
        resumed.train()


def test_run_with_schedules_by_peer_has_their_rates(tmp_path: Path) -> None:
    schedules = dict(
        a=dict(type='ExponentialLR', gamma=0.5, by_epoch=False, end=99),
        b=[
            dict(type='ConstantLR', factor=0.1, end=99, by_epoch=False),
            dict(type='ConstantMomentum', factor=0.5, end=99, by_epoch=False),
        ],
        auxiliary_a=[],
        auxiliary_b=[],
    )
    optim = tiny.peer_optimizers(
        peers=dict(b=dict(optimizer=dict(lr=0.2))), auxiliary=dict(optimizer=dict(lr=0.01))
    )
    run = run_of(tmp_path, optim=optim, param_scheduler=schedules)
    run.train()
    groups = {name: wrapper.param_groups[0] for name, wrapper in run.optim_wrapper.items()}
    assert {name: group['lr'] for name, group in groups.items()} == pytest.approx(
        dict(a=0.05 / 4, b=0.02, auxiliary_a=0.01, auxiliary_b=0.01)
    )
    assert {name: group['momentum'] for name, group in groups.items()} == pytest.approx(
        dict(a=0.9, b=0.45, auxiliary_a=0.9, auxiliary_b=0.9)
    )


def freeze_statistics(module: nn.Module) -> None:
    if isinstance(module, _BatchNorm):
        module.train = lambda mode=True: module  # stays in eval
        module.training = False


@pytest.mark.parametrize('order', ['alternating', 'simultaneous'])
def test_run_with_accumulated_gradients_equals_a_larger_batch(tmp_path: Path, order: str) -> None:
    """Two steps of 8 images accumulate the gradients of one step of 16.

    In alternating order this holds for the first peer alone: the second receives its outputs for
    the first half before an update, and for the second half after it.
    """
    weights = []
    for name, batch, iters, counts in (('one', 16, 1, 1), ('two', 8, 2, 2)):
        optim = dict(
            constructor='mmkd_plugin.PeerOptimWrappers',
            optimizer=dict(type='SGD', lr=0.5),
            accumulative_counts=counts,
        )
        run = run_of(
            tmp_path / name,
            iters=iters,
            batch=batch,
            optim=optim,
            model=dict(order=order, methods=DML),
        )
        run.model.apply(freeze_statistics)
        run.train()
        weights.append(run.model.state_dict())
    for name, value in weights[0].items():
        if order == 'simultaneous' or name.startswith('peers.a.'):
            torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6)


def test_run_with_an_undivided_number_of_accumulated_steps_uses_the_last(tmp_path: Path) -> None:
    """Three iterations, accumulated by two: MMEngine's dict of optimizers would drop the third."""
    run = run_of(tmp_path, iters=3, optim=tiny.peer_optimizers(accumulative_counts=2))
    before: list[dict[str, Tensor]] = []
    step = run.model.train_step

    def watched(data: Any, optim_wrapper: Any) -> Any:
        before.append(tiny.weights_of(run.model.network('a').head))
        return step(data, optim_wrapper)

    run.model.train_step = watched
    run.train()
    last = run.model.network('a').head.state_dict()
    assert [
        bool(tiny.differing(one, other))
        for one, other in zip(before, [*before[1:], last], strict=True)
    ] == [
        False,
        True,
        True,
    ]


def test_run_with_clipped_gradients_logs_norms_by_name(tmp_path: Path) -> None:
    run_of(tmp_path, optim=tiny.peer_optimizers(clip_grad=dict(max_norm=1e-9))).train()
    logged = MessageHub.get_current_instance().log_scalars
    assert {f'train/{name}.grad_norm' for name in OPTIMIZERS} < logged.keys()
    losses = logged['train/a.task.loss'].data[0]
    assert losses[0] > 0


@OPTIM_WRAPPERS.register_module(force=True)
class CpuAmp(OptimWrapper):
    """MMEngine's AmpOptimWrapper needs a GPU; this one works on the CPU."""

    def __init__(self, loss_scale: float, **options: Any) -> None:
        super().__init__(**options)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=loss_scale, growth_interval=2)

    def backward(self, loss: Tensor, **options: Any) -> None:
        self.loss_scaler.scale(loss).backward(**options)
        self._inner_count += 1

    def step(self, **options: Any) -> None:
        self.loss_scaler.step(self.optimizer, **options)
        self.loss_scaler.update()

    def optim_context(self, model: nn.Module) -> Any:
        return torch.autocast('cpu', torch.bfloat16)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), 'loss_scaler': self.loss_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss_scaler.load_state_dict(state_dict.pop('loss_scaler'))
        super().load_state_dict(state_dict)


def test_run_in_mixed_precision_scales_and_resumes_each_optimizer(tmp_path: Path) -> None:
    optim = tiny.peer_optimizers(type='CpuAmp', loss_scale=64.0, peers=dict(b=dict(loss_scale=4.0)))
    unbroken = run_of(tmp_path / 'one', iters=4, optim=optim)
    unbroken.train()
    scales = {
        name: wrapper.loss_scaler.get_scale() for name, wrapper in unbroken.optim_wrapper.items()
    }
    assert scales == dict(a=256.0, b=16.0, auxiliary_a=256.0, auxiliary_b=256.0), (
        'each doubled its own, twice'
    )
    run_of(tmp_path / 'two', iters=2, optim=optim).train()
    resumed = run_of(tmp_path / 'two', iters=4, resume=True, optim=optim)
    resumed.train()
    assert tiny.differing(unbroken.model.state_dict(), resumed.model.state_dict()) == []


def test_run_with_a_pretrained_peer_begins_with_its_weights(tmp_path: Path) -> None:
    peers = tiny.mutual_config()['peers']
    peers[1]['checkpoint'] = tiny.checkpoint(tmp_path, peers[1]['model'], seed=5)
    optim = tiny.peer_optimizers(peers=dict(b=dict(optimizer=dict(lr=0.0))))
    run = run_of(tmp_path / 'run', optim=optim, model=dict(peers=peers, methods=DML))
    run.train()
    saved = torch.load(peers[1]['checkpoint'], weights_only=True)['state_dict']
    assert torch.equal(run.model.network('b').head.fc.weight, saved['head.fc.weight'])


def test_run_with_all_weights_zero_trains_the_first_peer_as_alone_to_the_bit(
    tmp_path: Path,
) -> None:
    model = {
        **tiny.classifier(train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)], probs=[0.5]))
    }
    model['head']['loss']['use_soft'] = True
    plain = tiny.runner(
        copy.deepcopy({**model, 'data_preprocessor': tiny.preprocessor()}),
        tmp_path / 'plain',
        iters=5,
    )
    plain.train()
    peers = [dict(name='a', model=model), dict(name='b', model=model)]
    methods = dict(dml=dict(type='SoftTarget', loss_weight=0.0))
    ours = run_of(tmp_path / 'ours', iters=5, model=dict(peers=peers, methods=methods))
    ours.train()
    assert tiny.differing(plain.model.state_dict(), ours.model.network('a').state_dict()) == []


@pytest.mark.parametrize('update_buffers', [False, True])
def test_run_with_averaged_weights_saves_exports_and_resumes(
    tmp_path: Path, update_buffers: bool
) -> None:
    hooks = [
        dict(type='EMAHook', momentum=0.3, update_buffers=update_buffers),
        dict(type='mmkd_plugin.SaveStudent'),
    ]
    options = dict(
        custom_hooks=hooks,
        train_cfg=dict(by_epoch=False, max_iters=3, val_interval=3),
        **VALIDATION,
    )
    run = run_of(tmp_path, iters=3, **options)
    run.train()
    saved = state_of(tmp_path / 'iter_3.pth')
    assert saved.keys() == run.model.state_dict().keys()
    assert tiny.differing(saved, run.model.state_dict()), 'the file has the average'
    exported = torch.load(tmp_path / 'iter_3_b.pth', weights_only=True)['state_dict']
    prefix = 'peers.b.network.'
    own = {n.removeprefix(prefix): v for n, v in saved.items() if n.startswith(prefix)}
    assert tiny.differing(exported, own) == []
    options['train_cfg']['max_iters'] = 5
    run_of(tmp_path, iters=3, resume=True, **options).train()


def test_peer_val_loop_of_a_run_validates_every_peer_and_saves_the_best_mean(
    tmp_path: Path,
) -> None:
    default_hooks = dict(
        checkpoint=dict(
            type='CheckpointHook', interval=1, by_epoch=False, save_best='mean/accuracy/top1'
        )
    )
    train_cfg = dict(by_epoch=False, max_iters=2, val_interval=1)
    run = run_of(tmp_path, default_hooks=default_hooks, train_cfg=train_cfg, **VALIDATION)
    run.train()
    logged = MessageHub.get_current_instance().log_scalars
    scores = {
        name: logged[f'val/{name}/accuracy/top1'].current()
        for name in ('a', 'b', 'mean', 'ensemble')
    }
    assert scores['mean'] == pytest.approx((scores['a'] + scores['b']) / 2)
    data = tiny.TinyImages(seed=1)
    with torch.no_grad():
        inputs = run.model.data_preprocessor(dict(inputs=data.images), False)['inputs']
        probabilities = {name: run.model.network(name).eval()(inputs).softmax(1) for name in 'ab'}
    probabilities['ensemble'] = sum(probabilities.values()) / 2
    for name, found in probabilities.items():
        right = (found.argmax(1) == torch.arange(16) % 4).float().mean()
        assert scores[name] == pytest.approx(100 * right.item()), name
    assert list(tmp_path.glob('best_mean_accuracy_top1_iter_*.pth'))


def test_plain_val_loop_of_a_run_validates_the_peer_that_predicts(tmp_path: Path) -> None:
    train_cfg = dict(by_epoch=False, max_iters=2, val_interval=2)
    run_of(tmp_path, model=dict(predict='b'), train_cfg=train_cfg, **tiny.validation()).train()
    assert 'val/accuracy/top1' in MessageHub.get_current_instance().log_scalars


@ROOT_MODELS.register_module(force=True)
class Unknown(BaseModel):
    """A model that no adapter knows; its labels are a tensor."""

    def __init__(self, width: int = 4, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.net = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3))

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        features = self.net(inputs)
        return {'loss': features.square().mean()} if mode == 'loss' else features


def test_run_of_unknown_models_with_taps_moves_all(tmp_path: Path) -> None:
    peers = [dict(type='Unknown'), dict(type='Unknown', width=6)]
    hint = dict(hint=dict(type='Hint', pairs=[dict(student='net.0', teacher='net.0')]))
    loader = dict(
        batch_size=8,
        num_workers=0,
        dataset=[dict(inputs=torch.randn(3, 8, 8)) for _ in range(16)],
        sampler=dict(type='InfiniteSampler'),
        collate_fn=dict(type='default_collate'),
    )
    run = run_of(
        tmp_path,
        model=dict(peers=peers, methods=hint, data_preprocessor=None),
        train_dataloader=loader,
        default_scope='mmengine',
    )
    before = tiny.weights_of(run.model)
    run.train()
    assert set(tiny.differing(before, run.model.state_dict())) == set(before) - {'record.began'}
