"""Each load is measured, whatever the hooks of a model do to names."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from mmengine.logging import MMLogger
from torch import Tensor, nn

from mmkd_plugin.loading.restore import load_completely


class Net(nn.Module):
    """A body under two names, a normalisation layer, and a table that the constructor builds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.alias = self.body
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer('table', torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.body(x))


def trained() -> Net:
    net = Net()
    for tensor in (*net.parameters(), net.norm.running_mean):
        nn.init.normal_(tensor)
    return net


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def load(net: nn.Module, state: Any) -> None:
    load_completely(net, state, 'a.pth', 'key')


def without(state: 'OrderedDict[str, Tensor]', *names: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name not in names}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines that the load logs."""
    lines: list[str] = []
    monkeypatch.setattr(
        'mmkd_plugin.loading.restore.print_log', lambda line, **_: lines.append(line)
    )
    return lines


def test_a_whole_state_dict_loads_without_a_word(log: list[str]) -> None:
    net, source = Net(), trained()
    load(net, source.state_dict())
    assert states_equal(net, source) and not log


@pytest.mark.parametrize('name', ['body', 'alias'])
def test_one_name_of_a_shared_parameter_is_enough(name: str) -> None:
    net, source = Net(), trained()
    load(net, without(source.state_dict(), f'{name}.weight', f'{name}.bias'))
    assert states_equal(net, source)


def test_an_absent_buffer_keeps_its_value_and_is_named_in_one_line(log: list[str]) -> None:
    net, source = Net(), trained()
    load(net, without(source.state_dict(), 'table', 'norm.num_batches_tracked'))
    assert states_equal(net, source)
    [line] = log
    assert 'table' in line and 'a.pth' in line


@pytest.mark.parametrize('name', ['norm.running_mean', 'norm.running_var', 'norm.weight'])
def test_absent_statistics_and_parameters_are_refused(name: str) -> None:
    with raises_config_error('key', 'a.pth', f'1 key missing ({name})'):
        load(Net(), without(trained().state_dict(), name))


def test_an_absent_part_of_the_model_is_left_out_with_one_warning(log: list[str]) -> None:
    net, source = Net(), trained()
    extra = {f'mask_head.conv{i}.weight': torch.zeros(1) for i in range(4)}
    load(net, {**source.state_dict(), **extra, 'data_preprocessor.mean': torch.zeros(1)})
    assert states_equal(net, source)
    [line] = log
    assert '5 keys left out (mask_head.conv0.weight' in line


def test_a_file_of_a_deeper_network_is_refused() -> None:
    deeper = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with raises_config_error('key', 'a.pth', '2 keys unexpected (1.weight, 1.bias)'):
        load(nn.Sequential(nn.Linear(2, 2)), deeper.state_dict())


def test_a_file_with_nan_is_refused_by_that_name() -> None:
    source = trained()
    with torch.no_grad():
        source.body.weight[0, 0] = torch.nan
    with raises_config_error('key', 'a.pth', '2 keys with NaN (body.weight, alias.weight)'):
        load(Net(), source.state_dict())


def test_half_precision_is_cast() -> None:
    net, source = Net(), trained().half()
    load(net, source.state_dict())
    assert net.body.weight.dtype == torch.float32
    assert torch.equal(net.body.weight, source.body.weight.float())


class Renaming(Net):
    """Keys of files have another name than the parameters, as those of wrapped models have."""

    def __init__(self) -> None:
        super().__init__()
        self._register_load_state_dict_pre_hook(self._rename)

    @staticmethod
    def _rename(state: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in [one for one in state if one.startswith(f'{prefix}old.')]:
            state[name.replace('old.', 'body.')] = state.pop(name)


def test_names_that_a_hook_of_the_model_changes_are_restored() -> None:
    net, source = Renaming(), trained()
    state = without(source.state_dict(), 'alias.weight', 'alias.bias')
    load(net, {name.replace('body.', 'old.'): value for name, value in state.items()})
    assert states_equal(net, source)


class Hiding(Net):
    """A model whose hooks report nothing and fill in what is missing by its own values."""

    def __init__(self, fills: bool) -> None:
        super().__init__()
        if fills:
            self._register_load_state_dict_pre_hook(self._fill)
        self.register_load_state_dict_post_hook(lambda _, keys: keys.missing_keys.clear())

    def _fill(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for name, value in self.named_parameters():
            state.setdefault(prefix + name, value.detach())


@pytest.mark.parametrize('fills', [False, True])
def test_a_missing_parameter_that_hooks_hide_is_refused(fills: bool) -> None:
    state = without(trained().state_dict(), 'body.weight', 'alias.weight')
    with raises_config_error('key', 'a.pth', '1 key missing (body.weight)', fix='LoRA'):
        load(Hiding(fills), state)


def test_an_adapter_alone_does_not_load_into_a_model_with_lora() -> None:
    from mmpretrain.models import LoRAModel

    def build() -> nn.Module:
        backbone = dict(type='VisionTransformer', arch='deit-tiny', img_size=32, patch_size=16)
        return LoRAModel(
            module=dict(
                type='mmpretrain.ImageClassifier',
                backbone=dict(**backbone, out_type='cls_token'),
                head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=192),
            ),
            rank=2,
            targets=[dict(type='qkv')],
        )

    MMLogger.get_instance('mmengine', log_level='ERROR')
    with raises_config_error('key', 'a.pth', 'missing', fix='LoRA'):
        load(build(), build().state_dict())


def test_an_error_of_a_hook_is_one_line_about_the_file() -> None:
    class Refusing(Net):
        def _load_from_state_dict(self, *args: Any) -> None:
            raise KeyError('head.bias')

    with raises_config_error('key', 'a.pth', "KeyError: 'head.bias'"):
        load(Refusing(), trained().state_dict())
