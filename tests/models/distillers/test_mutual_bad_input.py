"""What a user gets wrong in mutual learning: one clear error before the first step, that names the key."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from mmkd_plugin.engine.data_parallel import PeerDataParallel
from mmkd_plugin.engine.optim_wrappers import PeerOptimWrappers
from mmkd_plugin.models.methods import SoftTarget
from mmkd_plugin.registry import MODELS

A, B = tiny.mutual_config()['peers']
HINT = dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer2')])


def refused(message: str, *names: str, **changes: Any) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ROOT_MODELS.build(tiny.mutual_config(*names, **changes))
    assert '\n' not in str(caught.value), 'one line'


@pytest.mark.parametrize('given', [[], [A], None, A])
def test_fewer_than_two_peers(given: Any) -> None:
    refused('^peers: expected a list of at least two networks, got', peers=given)


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ({**B, 'nmae': 'x'}, r"^peers\[1\]: expected a config path, a model dict, or dict\(name=…, model=…\) and of .* got \{"),
        (dict(name='b'), r'^peers\[1\]: expected a config path, a model dict'),
        (5, r'^peers\[1\]: expected a config path, a model dict'),
        ('nowhere.py', r'^peers\[1\] \(peer1\)\.model: expected a config file, found none at nowhere\.py$'),
        ({**B, 'name': 'a'}, r"^peers\[1\]\.name: expected a name of its own, got 'a' again$"),
        ({**B, 'name': 'mean'}, r"^peers\[1\]\.name: expected a name other than mean, ensemble, task and apart_…, got 'mean'$"),
        ({**B, 'name': 'apart_a'}, r"^peers\[1\]\.name: expected a name other than"),
        ({**B, 'name': 'b.c'}, r"^peers\[1\]\.name: expected a name that is a word, without 'loss' .* got 'b\.c'$"),
        ({**B, 'name': 'lossy'}, r"^peers\[1\]\.name: expected a name that is a word, without 'loss'"),
        ({**B, 'checkpoint': 'none.pth'}, r'^peers\[1\] \(b\)\.checkpoint: expected a checkpoint file or URL, found no file'),
        ({**B, 'methods': dict(kd=dict(temperature=2))}, r"^peers\[1\] \(b\)\.methods: expected changes by method, of \['dml'\], got"),
        (
            {**B, 'methods': dict(dml=dict(temperature=0))},
            r'^peers\[1\] \(b\)\.methods\.dml\.temperature: expected a number > 0, got 0$',
        ),
        ({**B, 'model': tiny.classifier(classes=7)}, r'^peers\[1\] \(b\): expected the 4 classes of the first peer, got 7$'),
    ],
)  # fmt: skip
def test_a_peer(entry: Any, message: str) -> None:
    refused(message, peers=[A, entry])


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    path = tiny.checkpoint(tmp_path, tiny.classifier(depth=8))
    refused(
        rf'^peers\[1\] \(b\)\.checkpoint: expected the weights of this very model, got {path} with 30 keys missing',
        peers=[A, {**B, 'checkpoint': path}],
    )


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(order='parallel'), r"^order: expected one of 'alternating', 'simultaneous', got 'parallel'$"),
        (dict(predict='c'), r"^predict: expected one of 'a', 'b', 'ensemble', got 'c'$"),
        (dict(task_weight=-1), r'^task_weight: expected a number >= 0, got -1$'),
        (dict(methods=dict(dml=dict(type='SoftTarget', temperature=0))), r'^methods\.dml\.temperature: expected a number > 0'),
        (dict(methods={}), r'^methods: expected dict\(name=dict\(type='),
        (
            dict(task_weight=0, methods=dict(dml=dict(type='SoftTarget', loss_weight=0))),
            r'^task_weight: expected a number > 0 where no method has a weight, got 0: peers\[0\] \(a\) would not be trained$',
        ),
        (
            dict(methods=dict(h=dict(type='Hint', pairs=[dict(student='backbone.layer4', teacher='backbone.layer2')]))),
            r"^methods\.h\.student_taps of peers\[0\] \(a\): expected the path of a module of ImageClassifier, got 'backbone\.layer4'",
        ),
        (
            dict(methods=dict(h=dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='bakbone.layer1')]))),
            r"^methods\.h\.teacher_taps of peers\[0\] \(a\): expected the path of a module",
        ),
        (
            dict(methods=dict(h={**HINT, 'pairs': [{**HINT['pairs'][0], 'index': 1}]})),
            r'^methods\.h\.pairs\[0\]\.index: expected one of 1 teachers, got 1$',
        ),
        (dict(probe_shape=(3, 8)), r'^probe_shape: expected \(channels, height, width\), got \(3, 8\)$'),
        (dict(data_preprocessor=dict(mean=[float('nan')] * 3)), r'^data_preprocessor\.mean\[0\]: expected a number, got nan$'),
    ],
)  # fmt: skip
def test_numbers_and_words(changes: dict[str, Any], message: str) -> None:
    refused(message, **changes)


def test_peers_that_share_a_part() -> None:
    head = ROOT_MODELS.build(dict(tiny.classifier()['head'], type='mmpretrain.LinearClsHead'))
    peers = [dict(name=name, model={**tiny.classifier(), 'head': head}) for name in 'ab']
    refused(
        r'^peers\[1\] \(b\)\.model: expected a network of its own, got one that shares head\.fc\.weight with peers\[0\] \(a\)',
        peers=peers,
    )


def test_margins_of_a_finished_teacher() -> None:
    pairs = [
        dict(
            student='backbone.layer3.0.bn2',
            teacher='backbone.layer3.0.bn2',
            norm='backbone.layer3.0.bn2',
        )
    ]
    refused(
        r'^methods\.od\.pairs\[0\]\.norm: expected a frozen teacher, whose margin stays as it is, got a network that learns$',
        methods=dict(od=dict(type='Overhaul', pairs=pairs)),
    )


@MODELS.register_module(force=True)
class MadeForOne(SoftTarget):
    """Brings a connector that was trained on a teacher's file."""

    files_of_teachers = ((0, b'sha256'),)


def test_a_connector_that_was_trained_on_a_finished_teacher() -> None:
    refused(
        r'^methods\.one\.pairs: expected no checkpoint among peers, which are still learning',
        methods=dict(one=dict(type='MadeForOne')),
    )


@ROOT_MODELS.register_module(force=True)
class Scoreless(nn.Module):
    """Known to no host."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


def test_class_scores_of_a_model_that_no_host_knows() -> None:
    peers = [A, dict(name='b', model=dict(type='Scoreless'))]
    refused(
        r'^peers\[1\] \(b\): expected a model whose class scores are known, got Scoreless: .* taps',
        peers=peers,
    )


def optimizers(**config: Any) -> Any:
    model = ROOT_MODELS.build(tiny.mutual_config(methods=tiny.inherit_explore()))
    return PeerOptimWrappers({key: value for key, value in config.items() if key != 'constructor'})(
        model
    )


SGD = dict(type='SGD', lr=0.1)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (
            tiny.peer_optimizers(peers=dict(c=dict())),
            r"^optim_wrapper\.peers: expected keys of \['a', 'apart_a', 'b', 'apart_b'\], got \['c'\]$",
        ),
        (
            dict(peers=dict(a=dict(optimizer=SGD))),
            r"^optim_wrapper\.peers\.apart_a\.optimizer: expected dict\(type='SGD', …\), here or for all, got None$",
        ),
        (dict(a=dict(optimizer=SGD), c=dict(optimizer=SGD)), r"^optim_wrapper\.peers: expected keys of .* got \['c'\]$"),
        (dict(a=dict(optimizer=SGD), apart=dict(optimizer=SGD)), r'^optim_wrapper\.peers\.b\.optimizer: expected'),
    ],
)  # fmt: skip
def test_optimizers(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimizers(**config)


def test_optimizers_of_another_model() -> None:
    message = r'^optim_wrapper\.constructor: expected mmkd_plugin\.PeerOptimWrappers for mmkd_plugin\.MutualDistiller, got it for Linear$'
    with pytest.raises(ValueError, match=message):
        PeerOptimWrappers(dict(optimizer=SGD))(nn.Linear(2, 2))


def test_a_wrapper_around_another_model() -> None:
    with pytest.raises(
        ValueError,
        match=r'^model_wrapper_cfg\.type: expected .* for mmkd_plugin\.MutualDistiller alone, got it for Linear$',
    ):
        PeerDataParallel(nn.Linear(2, 2))


def test_one_optimizer_for_all(tmp_path: Path) -> None:
    run = tiny.runner(tiny.mutual_config(), tmp_path)
    run.model.init_weights = lambda: None
    before = tiny.weights_of(run.model)
    message = (
        r"^optim_wrapper: expected an optimizer for each of \['a', 'b'\], got OptimWrapper; write "
        r"optim_wrapper=dict\(constructor='mmkd_plugin\.PeerOptimWrappers', optimizer=dict\(…\)\)"
    )
    with pytest.raises(ValueError, match=message):
        run.train()
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())


def test_a_loss_is_asked_for() -> None:
    model = ROOT_MODELS.build(tiny.mutual_config())
    with pytest.raises(
        ValueError,
        match=r"^model_wrapper_cfg: expected dict\(type='mmkd_plugin\.PeerDataParallel'\)",
    ):
        model(torch.zeros(1, 3, 8, 8), mode='loss')


def test_data_without_labels() -> None:
    model = ROOT_MODELS.build(tiny.mutual_config())
    wrappers = PeerOptimWrappers(dict(optimizer=SGD))(model)
    with pytest.raises(
        ValueError, match=r'^task_weight: expected labels in the training data for the task loss'
    ):
        model.train_step(tiny.batch_of(labels=False), wrappers)


@pytest.mark.parametrize('loop', ['PeerValLoop', 'PeerTestLoop'])
def test_loops_of_another_model(tmp_path: Path, loop: str) -> None:
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
    run = tiny.runner(
        {**tiny.classifier(), 'data_preprocessor': dict(tiny.PREPROCESSOR)}, tmp_path, **settings
    )
    message = rf'^{stage}_cfg\.type: expected mmkd_plugin\.{loop} in a run of mmkd_plugin\.MutualDistiller, got ImageClassifier$'
    with pytest.raises(ValueError, match=message):
        run.val() if stage == 'val' else run.test()


def test_the_ensemble_of_models_without_a_mean() -> None:
    head = dict(type='MultiLabelLinearClsHead', num_classes=4, in_channels=16)
    peers = [dict(name=name, model={**tiny.classifier(), 'head': head}) for name in 'ab']
    refused(
        r"^predict: expected one of \['a', 'b'\], got 'ensemble' of models whose answers have no mean$",
        peers=peers,
        predict='ensemble',
        methods=dict(h=HINT),
    )
