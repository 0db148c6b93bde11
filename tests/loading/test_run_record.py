"""Records of runs: read again, compared, and copied by MMEngine like any buffer."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from mmengine.model import ExponentialMovingAverage
from mmengine.runner.checkpoint import _load_checkpoint_to_model, load_state_dict
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.run_record import RunRecord, read_record

FIX = 'Start a new run.'
BEGAN = dict(
    teachers=[dict(name='a', sha256='12ab'), dict(name='b', sha256='34cd')],
    scores=[0.5, float('nan')],
    mapping=[2, 1],
    tap='backbone.layer3',
    paraphraser=None,
)


class Model(nn.Module):
    """A model with a record in it."""

    def __init__(self, settings: dict[str, Any], name: str = 'record') -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.add_module(name, RunRecord(settings, FIX))


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(BEGAN), **changes}


def torch_loads(model: nn.Module, state: dict[str, Tensor]) -> None:
    model.load_state_dict(state)


def mmengine_loads(model: nn.Module, state: dict[str, Tensor]) -> None:
    load_state_dict(model, state, strict=False)


def runner_loads(model: nn.Module, state: dict[str, Tensor]) -> None:
    _load_checkpoint_to_model(model, dict(state_dict=state))


LOADERS = pytest.mark.parametrize('load', [torch_loads, mmengine_loads, runner_loads])


@LOADERS
def test_the_same_settings_load_with_the_weights(load: Any) -> None:
    model, began = Model(BEGAN), Model(changed())
    load(model, began.state_dict())
    assert torch.equal(model.net.weight, began.net.weight)


@LOADERS
@pytest.mark.parametrize(
    ('settings', 'key', 'found', 'saved'),
    [
        (changed(tap='neck'), 'tap', 'neck', "'backbone.layer3'"),
        (changed(paraphraser='p.pth'), 'paraphraser', 'p.pth', 'None'),
        (changed(mapping=[2, 0]), 'mapping[1]', 0, '1'),
        (changed(mapping=[2, 1, 0]), 'mapping', [2, 1, 0], '[2, 1]'),
        (changed(scores=[0.5, 0.5]), 'scores[1]', 0.5, 'nan'),
        (
            changed(teachers=[BEGAN['teachers'][0], dict(name='b', sha256='56ef')]),
            'teachers[1].sha256',
            '56ef',
            "'34cd'",
        ),
        (changed(teachers={}), 'teachers', {}, "'12ab'"),
        (changed(more=1), 'more', 1, 'began without'),
    ],
)
def test_other_settings_are_refused_with_the_first_key_that_differs(
    load: Any, settings: dict[str, Any], key: str, found: Any, saved: str
) -> None:
    model = Model(settings)
    with raises_config_error(key, found, saved, 'began', fix=FIX):
        load(model, Model(BEGAN).state_dict())


def test_a_setting_that_is_gone_is_refused() -> None:
    without = changed()
    del without['tap']
    with raises_config_error('tap', fix=FIX):
        Model(without).load_state_dict(Model(BEGAN).state_dict())


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigError, match='began') as caught:
        Model(dict(a=1)).load_state_dict(Model(dict(a='x' * 9000)).state_dict())
    assert len(str(caught.value)) < 400


def test_equal_numbers_that_are_written_otherwise_are_the_same() -> None:
    model = Model(dict(a=[1, 2.0], b='é'))
    model.load_state_dict(Model(dict(b='é', a=[1.0, 2])).state_dict())
    assert read_record(model.state_dict()) == dict(a=[1, 2.0], b='é')


def test_the_given_state_dict_is_not_changed() -> None:
    state = Model(dict(a=1.0)).state_dict()
    before = state['record.began'].clone()
    Model(dict(a=1)).load_state_dict(state)
    assert torch.equal(state['record.began'], before)


@LOADERS
def test_a_checkpoint_without_a_record_is_left_to_the_loader(load: Any) -> None:
    state = {name: value for name, value in Model(BEGAN).state_dict().items() if 'net' in name}
    model = Model(changed(tap='neck'))
    if load is torch_loads:
        with pytest.raises(RuntimeError, match=r'Missing key.*record\.began'):
            load(model, state)
    else:
        load(model, state)
    assert torch.equal(model.net.weight, state['net.weight'])
    assert read_record(state) is None


@pytest.mark.parametrize(
    ('saved', 'words'),
    [
        (torch.zeros(3), 'torch.float32'),
        (torch.tensor([255], dtype=torch.uint8), 'utf-8'),
        (torch.tensor(list(b'{'), dtype=torch.uint8), 'Expecting'),
        (torch.tensor(list(b'[1]'), dtype=torch.uint8), '[1]'),
        (torch.tensor([], dtype=torch.uint8), 'Expecting'),
        ('text', 'dtype'),
    ],
)
def test_an_entry_that_is_not_a_record_is_refused(saved: Any, words: str) -> None:
    state = {**Model(BEGAN).state_dict(), 'record.began': saved}
    with raises_config_error('checkpoint'):
        Model(BEGAN).load_state_dict(state)
    with pytest.raises(ConfigError, match=r'record\.began') as caught:
        read_record(state)
    assert words in str(caught.value)


def test_a_record_is_read_by_its_path() -> None:
    outer = nn.Module()
    outer.inner = Model(BEGAN | dict(scores=[]), 'origin')
    settings = read_record(outer.state_dict(), 'inner.origin')
    assert settings is not None and settings['mapping'] == [2, 1]
    assert read_record(outer.state_dict()) is None
    assert read_record(outer.inner.origin.state_dict(), '') == settings


def test_a_record_loads_by_itself() -> None:
    with raises_config_error('a', 2, fix=FIX):
        RunRecord(dict(a=2), FIX).load_state_dict(RunRecord(dict(a=1), FIX).state_dict())


@pytest.mark.parametrize('update_buffers', [False, True])
def test_an_averaged_copy_keeps_and_checks_the_record(update_buffers: bool) -> None:
    """As in EMAHook: a deep copy, whose entries are overwritten by way of ``.data``."""
    model = Model(BEGAN)
    averaged = ExponentialMovingAverage(model, momentum=0.5, update_buffers=update_buffers)
    for _ in range(3):
        averaged.update_parameters(model)
    state = averaged.state_dict()
    for name, value in model.state_dict().items():
        state[f'module.{name}'].data.copy_(value.data)
    averaged.load_state_dict(state)
    settings = read_record(state, 'module.record')
    assert settings is not None and settings['tap'] == 'backbone.layer3'
    other = ExponentialMovingAverage(Model(changed(tap='neck')), momentum=0.5)
    with raises_config_error('tap', 'neck', fix=FIX):
        other.load_state_dict(state)


def test_half_precision_leaves_the_record_readable() -> None:
    model = Model(BEGAN).half()
    Model(BEGAN).load_state_dict(model.state_dict())


def test_a_record_survives_a_file_read_without_code(tmp_path: Path) -> None:
    torch.save(Model(BEGAN).state_dict(), tmp_path / 'a.pth')
    Model(BEGAN).load_state_dict(torch.load(tmp_path / 'a.pth', weights_only=True))


def test_record_ignores_a_key_that_may_differ() -> None:
    saved = RunRecord({'teachers': [dict(name='a', sha256='1')]}, 'Fix.').state_dict()
    renamed = RunRecord({'teachers': [dict(name='b', sha256='1')]}, 'Fix.', may_differ=['name'])
    renamed.load_state_dict(saved)
    other = RunRecord({'teachers': [dict(name='a', sha256='2')]}, 'Fix.', may_differ=['name'])
    with raises_config_error('teachers[0].sha256', '2', '1'):
        other.load_state_dict(saved)
