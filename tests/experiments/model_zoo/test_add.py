"""Add networks to a model zoo."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import modelindex
import pytest
import torch
from experiments.model_zoo import add as adding
from experiments.model_zoo.add import Choices, add
from experiments.model_zoo.index import Zoo
from helpers.errors import ANY, raises_config_error
from helpers.toy_zoo import COMMAND, LICENCE, PLAIN, STUDENT, content, trained
from mmengine.runner import load_checkpoint

from mmkd_plugin.loading.student import network_of


def test_add_writes_the_weights_alone_under_their_hash(zoo: Zoo) -> None:
    for name, entry in zoo.entries().items():
        path = zoo.path(entry.weights)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
        assert path.name == f'{name}-{entry.sha256[:8]}.pth'
        kept = torch.load(path, weights_only=True)
        assert kept.keys() == {'meta', 'state_dict'} and kept['meta'].keys() == {'epoch', 'seed'}
        network = network_of(str(zoo.path(entry.config)))
        load_checkpoint(network, str(path), strict=True)
        assert sum(value.numel() for value in network.parameters()) == entry.parameters
    listed = {Path(entry.weights).name for entry in zoo.entries().values()}
    assert content(zoo).keys() == listed | {'metafile.yml', 'README.md'}


def test_add_states_everything_in_an_index_of_the_usual_form(zoo: Zoo) -> None:
    index = modelindex.load(str(zoo.index))
    assert not index.check(silent=True)
    plain, student = index.models
    assert (plain.name, student.name) == ('plain', 'distilled')
    assert (plain.config, student.config) == ('configs/toy/plain.py',) * 2
    assert student.in_collection == index.collections[0].name
    found = student.metadata.data
    assert found['Training Config'] == 'configs/toy/distilled.py'
    assert (found['Training Command'], found['Seed']) == (COMMAND, 1)
    assert plain.metadata.data['Training Command'] == 'python tools/train.py configs/toy/plain.py'
    assert (found['Training Data'], found['Training Data License']) == ('Digits', 'CC BY 4.0')
    assert found['Versions'].keys() >= {'torch', 'mmengine', 'mmpretrain', 'numpy'}
    assert zoo.config_sha256('configs/toy/distilled.py') == found['Training Config SHA-256']


def test_add_writes_the_table(zoo: Zoo) -> None:
    entry = zoo.entries()['distilled']
    accuracy = entry.metrics['accuracy/top1']
    assert (
        f'| `distilled` | [distilled](../toy/distilled.py) | {accuracy:.2f} accuracy/top1, Digits '
        f'| {entry.parameters:,} | [plain](../toy/plain.py) '
        f'| [{Path(entry.weights).name}]({Path(entry.weights).name}) |\n'
    ) in zoo.readme.read_text()
    zoo.write(entry)  # again
    assert zoo.readme.read_text().count('`distilled`') == 1


def test_add_replaces_the_network_of_this_name_and_its_file(zoo: Zoo) -> None:
    before = zoo.entries()
    config = zoo.root / 'configs/toy/plain.py'
    add(zoo, str(config), str(trained(config, seed=7)), Choices(name='distilled', **LICENCE))
    after = zoo.entries()
    assert list(after) == list(before) and after['plain'] == before['plain']
    assert after['distilled'].seed == 7
    assert not zoo.path(before['distilled'].weights).exists()
    assert len(content(zoo)) == 4


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    'a student without a config of the network alone': (
        dict(test_config=None),
        '--test-config',
        'student',
    ),
    'a student without the command of its teachers': (dict(command=None), '--command', 'command'),
    'data of an unknown licence': (dict(licence=None), '--licence', 'Digits'),
    'a name that is no file name': (dict(name='a/b'), '--name', 'letters'),
    'a config outside': (dict(test_config='../plain.py'), '--test-config', 'must be a file in'),
    'a peer of a run without peers': (dict(network='a'), '--network', "'student'"),
}


@pytest.mark.parametrize('case', REFUSALS)
def test_add_refuses_and_changes_nothing(zoo: Zoo, case: str) -> None:
    changes, key, mention = REFUSALS[case]
    (zoo.root.parent / 'plain.py').write_text(PLAIN)
    before = content(zoo)
    with raises_config_error(key, ANY, mention):
        add(
            zoo,
            'configs/toy/distilled.py',
            'configs/toy/student.epoch_1.pth',
            replace(STUDENT, **changes),
        )
    assert content(zoo) == before


def test_add_of_another_structure_or_of_a_large_file_changes_nothing(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(zoo)
    deeper = zoo.root / 'configs/toy/deeper.py'
    deeper.write_text("_base_ = 'plain.py'\nmodel = dict(backbone=dict(depth=14))\n")
    with raises_config_error('CHECKPOINT', ANY, 'deeper.py strictly', 'Missing key'):
        add(zoo, str(deeper), 'configs/toy/epoch_0.pth', Choices(**LICENCE))
    monkeypatch.setattr(adding, 'LIMIT', 1000)
    with raises_config_error('CHECKPOINT', ANY, '1 MiB'):
        add(zoo, 'configs/toy/plain.py', 'configs/toy/epoch_0.pth', Choices(**LICENCE))
    assert content(zoo) == before
