"""Mistakes in a config of mutual learning: one error before the first step, with key and value."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from mmkd_plugin.engine.data_parallel import PeerDataParallel
from mmkd_plugin.engine.optim_wrappers import PeerOptimWrappers
from mmkd_plugin.models.distillers import MutualDistiller

A, B = tiny.mutual_config()['peers']
SGD = dict(type='SGD', lr=0.1)


def hint(
    student: str = 'backbone.layer2', teacher: str = 'backbone.layer2', **extra: Any
) -> dict[str, Any]:
    return dict(h=dict(type='Hint', pairs=[dict(student=student, teacher=teacher, **extra)]))


def refused(key: str, found: Any, *mentions: str, fix: str | None = None, **changes: Any) -> None:
    """Expect this error when a mutual distiller with these changes is built."""
    config = tiny.mutual_config(**changes)
    with raises_config_error(key, found, *mentions, fix=fix):
        ROOT_MODELS.build(config)


@pytest.mark.parametrize('given', [[], [A], None, A])
def test_fewer_than_two_peers_are_refused(given: Any) -> None:
    refused('peers', given, 'at least two', fix='peers=[', peers=given)


@pytest.mark.parametrize(
    ('entry', 'key', 'found', 'mention'),
    [
        ({**B, 'nmae': 'x'}, 'peers[1].nmae', 'x', 'name, model, checkpoint'),
        (dict(name='b'), 'peers[1].model', ANY, 'is missing'),
        (5, 'peers[1]', 5, 'a config path, a model dict'),
        ('nowhere.py', 'peers[1] (peer1).model', 'nowhere.py', 'a config file'),
        ({**B, 'name': 'a'}, 'peers[1].name', 'a', 'unique'),
        ({**B, 'name': 'mean'}, 'peers[1].name', 'mean', 'mean, ensemble, task'),
        ({**B, 'name': 'auxiliary_a'}, 'peers[1].name', 'auxiliary_a', 'auxiliary_'),
        ({**B, 'name': 'b.c'}, 'peers[1].name', 'b.c', 'a word'),
        ({**B, 'name': 'lossy'}, 'peers[1].name', 'lossy', "'loss'"),
        ({**B, 'name': 'keys'}, 'peers[1].name', 'keys', 'keys_net'),
        ({**B, 'checkpoint': 'none.pth'}, 'peers[1] (b).checkpoint', 'none.pth', 'No file'),
        (
            {**B, 'methods': dict(kd=dict(temperature=2))},
            'peers[1] (b).methods',
            dict(kd=dict(temperature=2)),
            "['dml']",
        ),
        (
            {**B, 'methods': dict(dml=dict(temperature=0))},
            'peers[1] (b).methods.dml.temperature',
            0,
            'a number > 0',
        ),
        ({**B, 'model': tiny.classifier(classes=7)}, 'peers[1] (b)', 7, 'the 4 classes of'),
    ],
)
def test_peer_with_a_wrong_entry_is_refused(entry: Any, key: str, found: Any, mention: str) -> None:
    refused(key, found, mention, peers=[A, entry])


def test_peer_with_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tiny.checkpoint(tmp_path, tiny.classifier(depth=8))
    peers = [A, {**B, 'checkpoint': path}]
    refused('peers[1] (b).checkpoint', path, '30 keys missing', fix='', peers=peers)


@pytest.mark.parametrize(
    ('changes', 'key', 'found', 'mention'),
    [
        (dict(order='parallel'), 'order', 'parallel', "'alternating', 'simultaneous'"),
        (dict(predict='c'), 'predict', 'c', "'a', 'b', 'ensemble'"),
        (dict(task_weight=-1), 'task_weight', -1, 'a number >= 0'),
        (
            dict(methods=dict(dml=dict(type='SoftTarget', temperature=0))),
            'methods.dml.temperature',
            0,
            'a number > 0',
        ),
        (dict(methods={}), 'methods', {}, 'dict(name=dict(type='),
        (
            dict(task_weight=0, methods=dict(dml=dict(type='SoftTarget', loss_weight=0))),
            'task_weight',
            0.0,
            'peers[0] (a)',
        ),
        (
            dict(methods=hint(student='backbone.layer4')),
            'methods.h',
            'backbone.layer4',
            'peers[0] (a) (ImageClassifier)',
        ),
        (
            dict(methods=hint(teacher='bakbone.layer1')),
            'methods.h',
            'bakbone.layer1',
            'peers[1] (b) (ImageClassifier)',
        ),
        (dict(methods=hint(index=1)), 'methods.h.pairs[0].index', 1, '1 teachers'),
        (dict(probe_shape=(3, 8)), 'probe_shape', (3, 8), '(channels, height, width)'),
        (
            dict(data_preprocessor=dict(mean=[float('nan')] * 3)),
            'data_preprocessor.mean[0]',
            float('nan'),
            'a number',
        ),
    ],
)
def test_mutual_config_with_a_wrong_value_is_refused(
    changes: dict[str, Any], key: str, found: Any, mention: str
) -> None:
    refused(key, found, mention, **changes)


def test_peers_that_share_a_part_are_refused() -> None:
    head = ROOT_MODELS.build(dict(tiny.classifier()['head'], type='mmpretrain.LinearClsHead'))
    peers = [dict(name=name, model={**tiny.classifier(), 'head': head}) for name in 'ab']
    mentions = ('head.fc.weight', 'peers[0] (a)')
    refused('peers[1] (b).model', ANY, *mentions, fix='separate', peers=peers)


def test_method_with_margins_of_a_peer_is_refused() -> None:
    norm = 'backbone.layer3.0.bn2'
    methods = dict(od=dict(type='Overhaul', pairs=[dict(student=norm, teacher=norm, norm=norm)]))
    refused('methods.od.pairs[0].norm', norm, 'frozen teacher', 'learns', fix='', methods=methods)


def test_method_with_a_trained_paraphraser_is_refused(tmp_path: Path) -> None:
    """It was trained on a teacher's file, and a peer has none."""
    pairs = [dict(student='backbone.layer3', teacher='backbone.layer3', checkpoint='any.pth')]
    changes = dict(methods=tiny.inherit_explore(pairs=pairs))
    refused('methods.ie.pairs[0].checkpoint', 'any.pth', 'learns', fix='Remove it', **changes)


@ROOT_MODELS.register_module(force=True)
class Scoreless(nn.Module):
    """A model that no adapter knows."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


@ROOT_MODELS.register_module(force=True)
class WithMethods(Scoreless):
    """A model with a child module called ``methods``."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__()
        self.methods = nn.Linear(2, 2)


def test_peer_with_a_child_module_called_methods_is_refused() -> None:
    """One optimizer trains a network and its methods, under this name."""
    peers = [A, dict(name='b', model=dict(type='WithMethods'))]
    refused('peers[1] (b).model', ANY, "'methods'", peers=peers, methods=hint())


def test_class_scores_of_an_unknown_peer_are_refused() -> None:
    peers = [A, dict(name='b', model=dict(type='Scoreless'))]
    refused('peers[1] (b)', ANY, 'Scoreless', fix='taps', peers=peers)


@pytest.mark.parametrize(
    ('config', 'key', 'found', 'mention'),
    [
        (tiny.peer_optimizers(peers=dict(c={})), 'c', {}, 'a, auxiliary_a, b, auxiliary_b'),
        (dict(peers=dict(a=dict(optimizer=SGD))), 'auxiliary_a.optimizer', None, "type='SGD'"),
        (
            dict(a=dict(optimizer=SGD), c=dict(optimizer=SGD)),
            'c',
            dict(optimizer=SGD),
            'a, auxiliary_a, b, auxiliary_b',
        ),
        (
            dict(a=dict(optimizer=SGD), auxiliary=dict(optimizer=SGD)),
            'b.optimizer',
            None,
            "type='SGD'",
        ),
    ],
)
def test_optimizers_with_a_wrong_or_missing_name_are_refused(
    config: dict[str, Any], key: str, found: Any, mention: str
) -> None:
    model = ROOT_MODELS.build(tiny.mutual_config(methods=tiny.inherit_explore()))
    given = {name: value for name, value in config.items() if name != 'constructor'}
    with raises_config_error(f'optim_wrapper.peers.{key}', found, mention):
        PeerOptimWrappers(given)(model)


def test_optimizers_of_another_model_are_refused() -> None:
    with raises_config_error('optim_wrapper.constructor', 'Linear', 'MutualDistiller', fix=''):
        PeerOptimWrappers(dict(optimizer=SGD))(nn.Linear(2, 2))


def test_data_parallel_wrapper_around_another_model_is_refused() -> None:
    with raises_config_error('model_wrapper_cfg.type', 'Linear', 'MutualDistiller', fix=''):
        PeerDataParallel(nn.Linear(2, 2))


def test_run_with_one_optimizer_for_all_peers_is_refused_before_a_step(tmp_path: Path) -> None:
    run = tiny.runner(tiny.mutual_config(), tmp_path)
    run.model.init_weights = lambda: None
    before = tiny.weights_of(run.model)
    fix = "constructor='mmkd_plugin.PeerOptimWrappers'"
    with raises_config_error('optim_wrapper', 'OptimWrapper', "['a', 'b']", fix=fix):
        run.train()
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())


def test_forward_of_mutual_distiller_in_loss_mode_is_refused() -> None:
    model = ROOT_MODELS.build(tiny.mutual_config())
    fix = "type='mmkd_plugin.PeerDataParallel'"
    with raises_config_error('model_wrapper_cfg', ANY, 'train_step', fix=fix):
        model(torch.zeros(1, 3, 8, 8), mode='loss')


def test_data_without_labels_for_the_task_loss_are_refused() -> None:
    model = ROOT_MODELS.build(tiny.mutual_config())
    wrappers = PeerOptimWrappers(dict(optimizer=SGD))(model)
    with raises_config_error('task_weight', 1.0, 'labels', fix='task_weight=0'):
        model.train_step(tiny.batch_of(labels=False), wrappers)


@pytest.mark.parametrize('labelled_batches', [0, 1])
def test_batch_without_labels_for_a_method_that_needs_them_is_refused(
    labelled_batches: int,
) -> None:
    """The first batch is checked, and a later one as well."""
    methods = dict(label=tiny.amtml(objective='label', mapping=[2]))
    config = tiny.mutual_config(methods=methods, task_weight=0)
    model: MutualDistiller = ROOT_MODELS.build(config)
    wrappers = PeerOptimWrappers(dict(optimizer=SGD))(model)
    for _ in range(labelled_batches):
        model.train_step(tiny.batch_of(), wrappers)
    with raises_config_error('methods.label', ANY, 'labels'):
        model.train_step(tiny.batch_of(labels=False), wrappers)


@pytest.mark.parametrize('loop', ['PeerValLoop', 'PeerTestLoop'])
def test_peer_loop_in_a_run_of_another_model_is_refused(tmp_path: Path, loop: str) -> None:
    stage = 'val' if loop == 'PeerValLoop' else 'test'
    loader = dict(
        batch_size=8,
        num_workers=0,
        dataset=dict(type='TinyImages'),
        sampler=dict(type='DefaultSampler'),
    )
    settings = {
        f'{stage}_dataloader': loader,
        f'{stage}_evaluator': dict(type='Accuracy'),
        f'{stage}_cfg': dict(type=f'mmkd_plugin.{loop}'),
    }
    model = {**tiny.classifier(), 'data_preprocessor': tiny.preprocessor()}
    run = tiny.runner(model, tmp_path, **settings)
    mentions = (f'mmkd_plugin.{loop}', 'mmkd_plugin.MutualDistiller')
    with raises_config_error(f'{stage}_cfg.type', 'ImageClassifier', *mentions, fix=''):
        run.val() if stage == 'val' else run.test()


def test_ensemble_of_models_without_mean_predictions_is_refused() -> None:
    head = dict(type='MultiLabelLinearClsHead', num_classes=4, in_channels=16)
    peers = [dict(name=name, model={**tiny.classifier(), 'head': head}) for name in 'ab']
    changes = dict(peers=peers, predict='ensemble', methods=hint())
    refused('predict', 'ensemble', "['a', 'b']", 'cannot be averaged', **changes)
