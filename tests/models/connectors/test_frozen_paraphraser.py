import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from torch import Tensor

from mmkd_plugin.loading.run_record import RunRecord
from mmkd_plugin.models.connectors import FrozenParaphraser, Paraphraser

TAP = 'backbone.layer3'
SHA256 = bytes(range(32)).hex()


def trained(**changes: Any) -> Paraphraser:
    """Return a paraphraser whose BatchNorm statistics are not the initial ones."""
    paraphraser = Paraphraser(**{'in_channels': 6, 'factor_channels': 4, **changes})
    with torch.no_grad():
        for _ in range(3):
            paraphraser(2 + torch.randn(8, paraphraser.in_channels, 4, 4))
    return paraphraser


def record(**changes: Any) -> dict[str, Tensor]:
    """Return the record in the state of a ``ParaphraserTrainer``; None leaves an entry out."""
    settings = dict(tap=TAP, teacher=dict(name='resnet', sha256=SHA256), **changes)
    kept = {name: value for name, value in settings.items() if value is not None}
    return {f'record.{name}': value for name, value in RunRecord(kept, '').state_dict().items()}


def state_of(paraphraser: Paraphraser) -> dict[str, Tensor]:
    """Return the state dict of a ``ParaphraserTrainer``."""
    state = {f'paraphraser.{name}': value for name, value in paraphraser.state_dict().items()}
    return {**state, **record(paraphraser=paraphraser.arguments)}


def first_edition(state: dict[str, Tensor], paraphraser: Paraphraser) -> dict[str, Tensor]:
    """Return the state dict that version 0.1 wrote: the record is two buffers."""
    text = json.dumps(dict(tap=TAP, arguments=paraphraser.arguments))
    weights = {name: value for name, value in state.items() if not name.startswith('record.')}
    return {
        **weights,
        'record': torch.tensor(list(text.encode()), dtype=torch.uint8),
        'teacher_sha256': torch.tensor(list(bytes.fromhex(SHA256)), dtype=torch.uint8),
    }


def saved(folder: Path, state: Any) -> str:
    torch.save(dict(meta=dict(epoch=3), state_dict=state), folder / 'paraphraser.pth')
    return str(folder / 'paraphraser.pth')


@pytest.mark.parametrize('edition', [1, 2])
@pytest.mark.parametrize(
    'arguments',
    [
        {},
        dict(norm=None),
        dict(norm='gn', last='linear'),
        dict(transposed=False, factor_channels=6),
    ],
)
def test_frozen_paraphraser_is_built_from_the_file_alone(
    tmp_path: Path, arguments: dict[str, Any], edition: int
) -> None:
    paraphraser = trained(**arguments)
    state = state_of(paraphraser)
    if edition == 1:
        state = first_edition(state, paraphraser)
    frozen = FrozenParaphraser.load(saved(tmp_path, state), 'pairs[0].checkpoint')
    assert (frozen.tap, frozen.teacher_sha256) == (TAP, SHA256)
    assert (frozen.in_channels, frozen.factor_channels) == (6, paraphraser.factor_channels)
    feature = torch.randn(3, 6, 4, 5)
    assert torch.equal(frozen.encode(feature), paraphraser.eval().encode(feature))
    assert torch.equal(frozen(feature), frozen.encode(feature))


def test_frozen_paraphraser_in_training_does_not_change(tmp_path: Path) -> None:
    frozen = FrozenParaphraser.load(saved(tmp_path, state_of(trained())), 'key')
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    holder = torch.nn.ModuleList([frozen]).train()
    assert holder.training and not any(module.training for module in frozen.modules())
    feature = torch.randn(3, 6, 4, 4, requires_grad=True)
    assert not frozen.encode(feature).requires_grad
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(torch.equal(before[name], value) for name, value in frozen.state_dict().items())


def test_frozen_paraphraser_saves_its_encoder_alone(tmp_path: Path) -> None:
    paraphraser = trained()
    frozen = FrozenParaphraser.load(saved(tmp_path, state_of(paraphraser)), 'key')
    expected = {
        f'encoder.{name}': value for name, value in paraphraser.encoder.state_dict().items()
    }
    assert frozen.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in frozen.state_dict().items())
    other = FrozenParaphraser.load(saved(tmp_path, state_of(trained())), 'key')
    other.load_state_dict(frozen.state_dict())
    feature = torch.randn(2, 6, 3, 3)
    assert torch.equal(other.encode(feature), frozen.encode(feature))


def test_frozen_paraphraser_draws_no_random_number_of_the_run(tmp_path: Path) -> None:
    path, before = saved(tmp_path, state_of(trained())), torch.random.get_rng_state()
    FrozenParaphraser.load(path, 'key')
    assert torch.equal(torch.random.get_rng_state(), before)


def test_frozen_paraphraser_of_another_tap_or_channels_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, state_of(trained()))
    with raises_config_error('pairs[1].checkpoint', TAP, "'neck'", fix=path):
        FrozenParaphraser.load(path, 'pairs[1].checkpoint', tap='neck')
    with raises_config_error('key', 6, 'for 64 channels', fix=path):
        FrozenParaphraser.load(path, 'key', tap=TAP, in_channels=64)
    frozen = FrozenParaphraser.load(path, 'key', tap=TAP, in_channels=6)
    with raises_config_error('in_channels', (1, 64, 2, 2), 'a map (N, 6, H, W)'):
        frozen.encode(torch.randn(1, 64, 2, 2))


Change = Callable[[dict[str, Tensor]], Any]


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name not in names}


def raw(text: bytes) -> dict[str, Tensor]:
    return {'record.began': torch.tensor(list(text), dtype=torch.uint8)}


@pytest.mark.parametrize(
    ('change', 'mentions'),
    [
        (
            lambda s: {'backbone.conv1.weight': s['paraphraser.decoder.0.weight']},
            ['a run of mmkd_plugin.ParaphraserTrainer', "holds 'backbone.conv1.weight'"],
        ),
        (lambda s: {}, ['a run of mmkd_plugin.ParaphraserTrainer', 'holds nothing']),
        (lambda s: [1, 2], ['a run of mmkd_plugin.ParaphraserTrainer', 'holds nothing']),
        (lambda s: without(s, 'record.began'), ['a run of mmkd_plugin.ParaphraserTrainer']),
        (
            lambda s: without(first_edition(s, Paraphraser(6, 4)), 'record'),
            ['a run of mmkd_plugin.ParaphraserTrainer'],
        ),
        (
            lambda s: without(first_edition(s, Paraphraser(6, 4)), 'teacher_sha256'),
            ['a run of mmkd_plugin.ParaphraserTrainer'],
        ),
        (
            lambda s: without(s, 'paraphraser.encoder.layers.3.weight'),
            ['the weights that its record describes', 'encoder.layers.3.weight'],
        ),
        (
            lambda s: {**s, 'paraphraser.decoder.9.weight': torch.ones(1)},
            ['the weights that its record describes', 'decoder.9.weight'],
        ),
        (
            lambda s: {**s, 'paraphraser.encoder.layers.0.weight': torch.ones(8, 8, 3, 3)},
            ['the weights that its record describes', 'size mismatch'],
        ),
        (
            lambda s: {**s, **record(paraphraser=dict(in_channels=6, depth=3))},
            ['the weights that its record describes', 'depth'],
        ),
        (
            lambda s: {**s, **record(paraphraser=dict(in_channels=0))},
            ['the weights that its record describes', 'in_channels'],
        ),
        (lambda s: {**s, **record()}, ['a readable record', "KeyError('paraphraser')"]),
        (lambda s: {**s, **raw(b'{"tap"')}, ['a readable record']),
        (lambda s: {**s, **raw(b'[3]')}, ['a readable record']),
        (lambda s: {**s, 'record.began': torch.ones(3)}, ['a readable record']),
    ],
)
def test_frozen_paraphraser_from_another_or_an_incomplete_file_is_refused(
    tmp_path: Path, change: Change, mentions: list[str]
) -> None:
    path = saved(tmp_path, change(state_of(trained())))
    with raises_config_error('key', path, *mentions, fix='Train'):
        FrozenParaphraser.load(path, 'key')


@pytest.mark.parametrize('path', [None, '', 3])
def test_frozen_paraphraser_from_no_path_is_refused(path: Any) -> None:
    with raises_config_error('key', path, 'path or URL', fix='mmkd_plugin.ParaphraserTrainer'):
        FrozenParaphraser.load(path, 'key')


def test_frozen_paraphraser_from_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'^key: ') as caught:
        FrozenParaphraser.load(str(tmp_path / 'none.pth'), 'key')
    assert str(tmp_path / 'none.pth') in str(caught.value)
