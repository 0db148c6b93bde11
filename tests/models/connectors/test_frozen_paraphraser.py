"""What stage 2 takes of stage 1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd_plugin.models.connectors import FrozenParaphraser, Paraphraser, load_paraphraser
from mmkd_plugin.models.connectors.paraphraser_file import write_record

TAP = 'backbone.layer3'
SHA256 = bytes(range(32))


def trained(**changes: Any) -> Paraphraser:
    """With BatchNorm statistics that are not the initial ones."""
    paraphraser = Paraphraser(**{'in_channels': 6, 'factor_channels': 4, **changes})
    with torch.no_grad():
        for _ in range(3):
            paraphraser(2 + torch.randn(8, paraphraser.in_channels, 4, 4))
    return paraphraser


def state_of(paraphraser: Paraphraser) -> dict[str, Tensor]:
    """As a ``ParaphraserTrainer`` has it."""
    state = {f'paraphraser.{name}': value for name, value in paraphraser.state_dict().items()}
    record = write_record(TAP, paraphraser.arguments)
    return {
        **state,
        'record': record,
        'teacher_sha256': torch.tensor(list(SHA256), dtype=torch.uint8),
    }


def saved(folder: Path, state: Any) -> str:
    torch.save(dict(meta=dict(epoch=3), state_dict=state), folder / 'paraphraser.pth')
    return str(folder / 'paraphraser.pth')


@pytest.mark.parametrize(
    'arguments',
    [
        {},
        dict(norm=None),
        dict(norm='gn', last='linear'),
        dict(transposed=False, factor_channels=6),
    ],
)
def test_the_path_alone_says_everything(tmp_path: Path, arguments: dict[str, Any]) -> None:
    paraphraser = trained(**arguments)
    frozen = FrozenParaphraser.load(saved(tmp_path, state_of(paraphraser)), 'pairs[0].checkpoint')
    assert (frozen.tap, frozen.teacher_sha256) == (TAP, SHA256)
    assert (frozen.in_channels, frozen.factor_channels) == (6, paraphraser.factor_channels)
    feature = torch.randn(3, 6, 4, 5)
    assert torch.equal(frozen.encode(feature), paraphraser.eval().encode(feature))
    assert torch.equal(frozen(feature), frozen.encode(feature))


def test_it_stays_as_it_is(tmp_path: Path) -> None:
    frozen = FrozenParaphraser.load(saved(tmp_path, state_of(trained())), 'key')
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    holder = torch.nn.ModuleList([frozen]).train()
    assert holder.training and not any(module.training for module in frozen.modules())
    feature = torch.randn(3, 6, 4, 4, requires_grad=True)
    assert not frozen.encode(feature).requires_grad
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(torch.equal(before[name], value) for name, value in frozen.state_dict().items())


def test_its_encoder_alone_is_kept_and_saved(tmp_path: Path) -> None:
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


def test_loading_leaves_the_run_its_random_numbers(tmp_path: Path) -> None:
    path, before = saved(tmp_path, state_of(trained())), torch.random.get_rng_state()
    FrozenParaphraser.load(path, 'key')
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_file_as_read(tmp_path: Path) -> None:
    paraphraser = trained(norm='gn')
    loaded = load_paraphraser(saved(tmp_path, state_of(paraphraser)), 'key')
    assert loaded.arguments == paraphraser.arguments
    assert (loaded.tap, loaded.teacher_sha256) == (TAP, SHA256)
    assert loaded.state.keys() == paraphraser.state_dict().keys()


def test_another_tap_or_other_channels_than_wanted(tmp_path: Path) -> None:
    path = saved(tmp_path, state_of(trained()))
    message = r"^pairs\[1\]\.checkpoint: expected a paraphraser of 'neck', got one that was trained on 'backbone.layer3'"
    with pytest.raises(ValueError, match=message):
        FrozenParaphraser.load(path, 'pairs[1].checkpoint', tap='neck')
    with pytest.raises(
        ValueError, match=r'^key: expected a paraphraser for 64 channels, got one for 6: /'
    ):
        FrozenParaphraser.load(path, 'key', tap=TAP, in_channels=64)
    frozen = FrozenParaphraser.load(path, 'key', tap=TAP, in_channels=6)
    with pytest.raises(
        ValueError, match=r'^in_channels: expected a map \(N, 6, H, W\), got \(1, 64, 2, 2\)'
    ):
        frozen.encode(torch.randn(1, 64, 2, 2))


Change = Callable[[dict[str, Tensor]], Any]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda state: {'backbone.conv1.weight': state['paraphraser.decoder.0.weight']},
            r"^key: expected the checkpoint of a run of mmkd_plugin.ParaphraserTrainer, got .* with 'backbone.conv1.weight' …",
        ),
        (lambda state: {}, r'^key: expected the checkpoint of a run of .*, got .* with nothing …'),
        (
            lambda state: [1, 2],
            r'^key: expected the checkpoint of a run of .*, got .* with nothing …',
        ),
        (
            lambda state: {n: v for n, v in state.items() if n != 'record'},
            r'^key: expected the checkpoint of a run of',
        ),
        (
            lambda state: {n: v for n, v in state.items() if n != 'teacher_sha256'},
            r'^key: expected the checkpoint of a run of',
        ),
        (
            lambda state: {
                n: v for n, v in state.items() if n != 'paraphraser.encoder.layers.3.weight'
            },
            r'^key: expected the weights that the record in .* speaks of, got .*encoder\.layers\.3\.weight',
        ),
        (
            lambda state: {**state, 'paraphraser.decoder.9.weight': torch.ones(1)},
            r'^key: expected the weights that the record in .* speaks of, got .*decoder\.9\.weight',
        ),
        (
            lambda state: {**state, 'paraphraser.encoder.layers.0.weight': torch.ones(8, 8, 3, 3)},
            r'^key: expected the weights that the record in .* speaks of, got .*size mismatch',
        ),
        (
            lambda state: {**state, 'record': write_record(TAP, dict(in_channels=6, depth=3))},
            r'^key: expected the weights that the record in .* speaks of, got .*depth',
        ),
        (
            lambda state: {**state, 'record': torch.tensor(list(b'{"tap"'), dtype=torch.uint8)},
            r'^key: expected a readable record of the paraphraser in .*, got ',
        ),
        (
            lambda state: {**state, 'record': torch.tensor(list(b'[3]'), dtype=torch.uint8)},
            r'^key: expected a readable record of the paraphraser in .*, got record: expected a tap and arguments',
        ),
    ],
)
def test_what_is_no_whole_paraphraser(tmp_path: Path, change: Change, message: str) -> None:
    path = saved(tmp_path, change(state_of(trained())))
    with pytest.raises(ValueError, match=message) as caught:
        FrozenParaphraser.load(path, 'key')
    assert '\n' not in str(caught.value), 'one line'


@pytest.mark.parametrize('path', [None, '', 3])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^key: expected the path or URL of a paraphraser's checkpoint, got"
    ):
        load_paraphraser(path, 'key')


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r'^key: expected a checkpoint file or URL, found no file at'
    ):
        load_paraphraser(str(tmp_path / 'none.pth'), 'key')
