"""Weights in files of other code: found if only one network can be meant, else all are named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from torch import Tensor, nn

from mmkd_plugin.loading.checkpoint import load_weights

STATE = {name: value + 7 for name, value in nn.Linear(2, 3).state_dict().items()}
OTHER = {name: value - 7 for name, value in STATE.items()}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.head = nn.Linear(2, 3)


def under(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {f'{prefix}{name}': value for name, value in state.items()}


def load(content: Any, folder: Path, net: nn.Module | None = None, **options: Any) -> nn.Module:
    net = net or nn.Linear(2, 3)
    torch.save(content, folder / 'a.pth')
    load_weights(net, str(folder / 'a.pth'), 'key', **options)
    return net


@pytest.mark.parametrize(
    'content',
    [
        {'model': STATE, 'epoch': 3, 'optimizer': {'state': {0: {'step': torch.ones(1)}}}},
        {'net': STATE, 'criterion': {'scale': torch.ones(1)}},
        {'weights': {'module': STATE}},
        {'state_dict': STATE, 'state_dict_ema': OTHER},  # the host loads the first
        {'state_dict': STATE, 'ema_state_dict': under('module.', OTHER)},  # MMEngine swaps them
        {'state_dict_ema': STATE},
        under('module.'),
        under('_orig_mod.'),
        under('module._orig_mod.'),
        {'state_dict': under('architecture.')},
        {'state_dict': under('architecture.') | under('teacher.', {'weight': torch.ones(9, 9)})},
        {'model': under('model.')},
    ],
)
def test_weights_that_can_be_meant_alone_are_loaded(content: Any, tmp_path: Path) -> None:
    net = load(content, tmp_path)
    assert torch.equal(net.weight, STATE['weight'])


def test_a_part_that_was_compiled_is_loaded(tmp_path: Path) -> None:
    source = Net().state_dict()
    state = {name.replace('head.', 'head._orig_mod.'): value for name, value in source.items()}
    assert torch.equal(load(state, tmp_path, Net()).head.weight, source['head.weight'])


@pytest.mark.parametrize(
    ('content', 'found'),
    [
        ({'model': STATE, 'model_ema': OTHER}, 'several dicts of tensors: model, model_ema'),
        ({'model': STATE, 'ema': {'module': OTHER}}, 'model, ema.module'),
        ({'state_dict': under('student.') | under('teacher.', OTHER)}, 'student., teacher.'),
    ],
)
def test_weights_of_several_networks_are_refused_by_their_names(
    content: Any, found: str, tmp_path: Path
) -> None:
    with raises_config_error('key', str(tmp_path / 'a.pth'), found, fix='Name one: checkpoint_'):
        load(content, tmp_path)


@pytest.mark.parametrize('checkpoint_key', ['ema', 'ema.module'])
def test_checkpoint_key_names_one_of_several(checkpoint_key: str, tmp_path: Path) -> None:
    content = {'model': OTHER, 'ema': {'module': STATE, 'updates': 3}}
    net = load(content, tmp_path, checkpoint_key=checkpoint_key)
    assert torch.equal(net.weight, STATE['weight'])


@pytest.mark.parametrize('prefix', ['student', 'student.'])
def test_checkpoint_prefix_names_one_of_several(prefix: str, tmp_path: Path) -> None:
    content = {'state_dict': under('student.') | under('teacher.', OTHER)}
    net = load(content, tmp_path, checkpoint_prefix=prefix)
    assert torch.equal(net.weight, STATE['weight'])


def test_a_name_that_the_file_does_not_have_lists_those_it_has(tmp_path: Path) -> None:
    with raises_config_error('key_key', 'emma', "'model', 'ema'"):
        load({'model': STATE, 'ema': OTHER}, tmp_path, checkpoint_key='emma')
    with raises_config_error('key_prefix', 'b.', "'a.'"):
        load(under('a.'), tmp_path, checkpoint_prefix='b')


def test_a_backbone_alone_is_no_network(tmp_path: Path) -> None:
    source = Net()
    alone = {k: v for k, v in source.state_dict().items() if k.startswith('backbone.')}
    path = str(tmp_path / 'a.pth')
    with raises_config_error('key', path, '2 keys missing (head.weight, head.bias)'):
        load(alone, tmp_path, Net())
    with raises_config_error('key', path, '4 keys missing'):
        load(source.backbone.state_dict(), tmp_path, Net())


def test_safetensors_without_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'safetensors.torch', None)
    path = tmp_path / 'a.safetensors'
    header = b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
    with raises_config_error('key', str(path), 'safetensors', fix='pip install safetensors'):
        load_weights(nn.Linear(1, 1), str(path), 'key')


def test_safetensors_are_loaded(tmp_path: Path) -> None:
    save_file = pytest.importorskip('safetensors.torch').save_file
    save_file(STATE, str(tmp_path / 'a.safetensors'))
    net = nn.Linear(2, 3)
    load_weights(net, str(tmp_path / 'a.safetensors'), 'key')
    assert torch.equal(net.weight, STATE['weight'])
