"""Verify networks of a model zoo: right ones pass, and every damage is named."""

import functools
import hashlib
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from experiments.model_zoo.entry import Entry
from experiments.model_zoo.index import Zoo
from experiments.model_zoo.verify import load_entry, verify
from helpers.errors import ANY, raises_config_error
from mmengine.runner import runner

ROOT = Path(__file__).parents[3]


def test_verify_returns_the_metrics_of_the_index(zoo: Zoo, tmp_path: Path) -> None:
    for entry in zoo.named([]):
        assert verify(zoo, entry, tmp_path / 'logs') == entry.metrics
    with raises_config_error('NAME', 'plane', "'plain', 'distilled'"):
        zoo.named(['plane'])


def test_verify_computes_on_the_cpu(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, 'get_device', lambda: 'meta')
    entry = zoo.entries()['plain']
    assert verify(zoo, entry, tmp_path / 'logs') == entry.metrics


def test_command_reports_each_network_and_a_changed_training(
    zoo: Zoo, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = runpy.run_path(str(ROOT / 'tools/model_zoo.py'), run_name='tool')
    distilled = zoo.root / 'configs/toy/distilled.py'
    distilled.write_text(f'{distilled.read_text()}\nlonger = 1\n')
    tamper(zoo, zoo.entries()['plain'])
    assert tool['verify_all'](zoo, []) == 1
    value = zoo.entries()['distilled'].metrics['accuracy/top1']
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith('FAILED plain.Metadata.SHA-256: ')
    assert others == [
        f'distilled: verified, accuracy/top1 = {value}',
        'distilled: configs/toy/distilled.py has changed since this training',
    ]
    assert tool['verify_all'](zoo, ['distilled']) == 0


def tamper(zoo: Zoo, entry: Entry) -> Entry:
    path = zoo.path(entry.weights)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return entry


def lose(zoo: Zoo, entry: Entry) -> Entry:
    zoo.path(entry.weights).unlink()
    return entry


def rewrite(change: Callable[[dict[str, Any]], Any], zoo: Zoo, entry: Entry) -> Entry:
    """Save other content, and state its hash."""
    path = zoo.path(entry.weights)
    state = torch.load(path, weights_only=True)
    torch.save(change(state), path)
    return replace(entry, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def with_code(state: dict[str, Any]) -> dict[str, Any]:
    return state | dict(code=tamper)


def with_one_more(state: dict[str, Any]) -> dict[str, Any]:
    return dict(state_dict=state['state_dict'] | dict(more=torch.zeros(1)))


def without_bias(state: dict[str, Any]) -> dict[str, Any]:
    state['state_dict'].pop('head.fc.bias')
    return state


def with_another_bias(state: dict[str, Any]) -> dict[str, Any]:
    state['state_dict']['head.fc.bias'] += torch.linspace(0, 100, 10)
    return state


def state_another_metric(zoo: Zoo, entry: Entry) -> Entry:
    """State the next float64 number."""
    value = torch.tensor(entry.metrics['accuracy/top1'], dtype=torch.float64)
    return replace(
        entry, metrics={'accuracy/top1': value.nextafter(torch.tensor(1e3).double()).item()}
    )


def change_structure(zoo: Zoo, entry: Entry) -> Entry:
    config = zoo.path(entry.config)
    config.write_text(config.read_text().replace('base_channels=4', 'base_channels=8'))
    return entry


METRIC = 'plain.Results.Metrics.accuracy/top1'
DAMAGES: dict[str, tuple[Callable[[Zoo, Entry], Entry], str, str]] = {
    'changed file': (tamper, 'plain.Metadata.SHA-256', 'has changed'),
    'missing file': (lose, 'plain.Weights', 'must be a file'),
    'code in the file': (functools.partial(rewrite, with_code), 'plain', 'weights_only'),
    'one tensor more': (functools.partial(rewrite, with_one_more), 'plain', 'Unexpected key'),
    'one tensor less': (functools.partial(rewrite, without_bias), 'plain', 'head.fc.bias'),
    'another structure': (change_structure, 'plain', 'size mismatch'),
    'another metric in the last digit': (state_another_metric, METRIC, 'as the index states'),
    'other weights': (functools.partial(rewrite, with_another_bias), METRIC, 'torch'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_verify_names_network_found_and_expected(zoo: Zoo, tmp_path: Path, damage: str) -> None:
    do, key, mention = DAMAGES[damage]
    entry = do(zoo, zoo.entries()['plain'])
    if key == METRIC:
        load_entry(zoo, entry)  # nothing but the metric is wrong
    with raises_config_error(key, ANY, mention):
        verify(zoo, entry, tmp_path / 'logs')


@pytest.mark.parametrize(
    'path', [('Weights',), ('Metadata', 'SHA-256'), ('Metadata', 'Training Data License')]
)
def test_entries_without_a_field_are_refused(zoo: Zoo, path: tuple[str, ...]) -> None:
    index = yaml.safe_load(zoo.index.read_text())
    *parents, last = path
    functools.reduce(dict.__getitem__, parents, index['Models'][0]).pop(last)
    zoo.index.write_text(yaml.safe_dump(index))
    with raises_config_error('.'.join(('plain', *path)), ANY, 'missing'):
        zoo.entries()
