"""The store: rows of several processes, interruptions, full disks."""

import copy
import errno
import json
import multiprocessing
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import stores
from helpers.errors import raises_config_error
from helpers.stores import ROW, content, opened

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import ClassScores, NetworkOutput
from mmkd_plugin.replay import ReplayStore, RowFormat, sizes
from mmkd_plugin.replay import store as module
from mmkd_plugin.replay.logits import LogitCodec

SPAWN = multiprocessing.get_context('spawn')
EVERY = np.arange(500)


def process(function: Any, *arguments: Any) -> Any:
    started = SPAWN.Process(target=function, args=arguments)
    started.start()
    return started


# Rows


@pytest.mark.parametrize('seed', range(3))
def test_rows_that_were_written_are_found_and_no_others(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    store = opened(tmp_path)
    written = rng.permutation(500)[:123]
    for part in np.array_split(written, 11):
        store.write(part, content(part))
    order = rng.permutation(500)
    found, data = store.read(order)
    assert found.tolist() == np.isin(order, written).tolist()
    assert np.array_equal(data[found], content(order[found])) and not data[~found].any()
    assert store.finished == 123 and len(store) == 500
    found, data = opened(tmp_path).read(order)
    assert found.sum() == 123 and np.array_equal(data[found], content(order[found]))


def test_row_of_zeros_is_found(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(np.array([3]), np.zeros((1, ROW.row_bytes), np.uint8))
    assert store.read(np.array([3, 4]))[0].tolist() == [True, False]


def test_row_twice_in_a_batch_is_written_whole(tmp_path: Path) -> None:
    store = opened(tmp_path)
    rows = np.array([4, 7, 4])
    store.write(rows, np.concatenate([content(rows[:2]), content(rows[2:], salt=9)]))
    found, data = store.read(np.array([4, 7]))
    assert found.all() and np.array_equal(data[:1], content(rows[:1], salt=9))


@pytest.mark.parametrize('size', [0, 1])
def test_batch_of_no_or_one_row(size: int, tmp_path: Path) -> None:
    store = opened(tmp_path)
    rows = EVERY[:size]
    store.write(rows, content(rows))
    found, data = store.read(rows)
    assert found.shape == (size,) and data.shape == (size, ROW.row_bytes) and found.all()


@pytest.mark.parametrize('rows', [[-1], [500], [0, 1 << 40]])
def test_row_outside_of_the_store_is_an_error(rows: list[int], tmp_path: Path) -> None:
    store = opened(tmp_path)
    for call in (store.read, lambda r: store.write(r, content(r))):
        with pytest.raises(IndexError, match='of 500'):
            call(np.array(rows))


@pytest.mark.parametrize('wrong', [np.zeros((2, 3), np.uint8), np.zeros((2, 204), np.int8)])
def test_bytes_that_are_no_rows_are_an_error(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='no 2 rows'):
        opened(tmp_path).write(np.array([0, 1]), wrong)


@pytest.mark.parametrize('byte', [0, 3, 100, 203])
def test_row_that_a_power_failure_tore_is_missing_and_can_be_written_again(
    byte: int, tmp_path: Path
) -> None:
    store = opened(tmp_path)
    store.write(EVERY, content(EVERY))
    store.flush()
    with (tmp_path / 'rows.bin').open('r+b') as file:
        file.seek(42 * ROW.row_bytes + byte)
        file.write(b'\0')
    found, data = store.read(EVERY)
    assert EVERY[~found].tolist() == [42] and not data[42].any()
    store.write(EVERY[42:43], content(EVERY[42:43]))
    assert store.read(EVERY)[0].all()


def test_mark_is_written_after_its_row(tmp_path: Path) -> None:
    store = opened(tmp_path)
    order = []

    class Watched:
        def __init__(self, name: str, array: Any) -> None:
            self.name, self.array = name, array

        def __setitem__(self, rows: Any, values: Any) -> None:
            order.append(self.name)
            self.array[rows] = values

    store._rows, store._marks = Watched('row', store._rows), Watched('mark', store._marks)
    store.write(EVERY, content(EVERY))
    assert order == ['row', 'mark']


def test_store_is_not_read_whole(tmp_path: Path) -> None:
    store = opened(tmp_path, rows=1_000_000)
    before = _resident()
    store.write(EVERY, content(EVERY))
    store.read(np.arange(0, 1_000_000, 2000))
    assert _resident() - before < 60 << 20  # of 204 MB


def _resident() -> int:
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


# Several processes


@pytest.mark.slow
def test_processes_that_write_neighbouring_rows_lose_none(tmp_path: Path) -> None:
    rows = 1500
    writers = [process(stores.fill, str(tmp_path), rank, 3, rows) for rank in range(3)]
    reader: ReplayStore | None = None
    every = np.arange(rows)
    seen = 0
    while any(one.is_alive() for one in writers):
        if reader is None and (tmp_path / 'manifest.json').exists():
            reader = opened(tmp_path, rows)
        if reader is not None:  # while others write
            found, data = reader.read(every)
            assert np.array_equal(data[found], content(every[found]))
            assert found.sum() >= seen
            seen = int(found.sum())
    assert [one.exitcode for one in writers] == [0, 0, 0]
    found, data = opened(tmp_path, rows).read(every)
    assert found.all() and np.array_equal(data, content(every))


@pytest.mark.slow
def test_processes_that_open_at_once_make_one_store(tmp_path: Path) -> None:
    queue = SPAWN.Queue()
    folder = str(tmp_path / 'a' / 'store')
    every = [process(stores.open_and_report, folder, 500, queue) for _ in range(4)]
    assert [queue.get(timeout=120) for _ in every] == [''] * 4
    for one in every:
        one.join()
    assert opened(Path(folder)).finished == len({one.pid % 500 for one in every})


@pytest.mark.slow
@pytest.mark.parametrize('delay', [0.0, 0.013, 0.05])
def test_process_killed_while_it_writes_leaves_whole_rows(delay: float, tmp_path: Path) -> None:
    folder, started = tmp_path / 'store', tmp_path / 'started'
    writer = process(stores.fill_without_end, str(folder), 500, str(started))
    stores.killed_while_writing(writer, started, delay)
    store = opened(folder)
    found, data = store.read(EVERY)
    assert found.sum() > 100
    expected = [content(EVERY, salt) for salt in range(5)]
    for number in EVERY[found]:
        assert any(np.array_equal(data[number], one[number]) for one in expected)
    # At most the batch that was cut off is lost, and it can be written again.
    assert store.finished - found.sum() <= 64
    store.write(EVERY, content(EVERY))
    assert store.read(EVERY)[0].all()


@pytest.mark.parametrize('left', [('marks.bin',), ('marks.bin', 'rows.bin')])
def test_process_killed_while_it_made_the_store_leaves_nothing_that_counts(
    left: tuple[str, ...], tmp_path: Path
) -> None:
    opened(tmp_path).write(EVERY, content(EVERY))
    (tmp_path / 'manifest.json').unlink()  # it is written last
    for name in {'marks.bin', 'rows.bin'} - {*left}:
        (tmp_path / name).unlink()
    store = opened(tmp_path)
    assert store.finished == 0 and not store.read(EVERY)[0].any()


def test_store_in_another_process_or_a_copy_maps_the_same_files(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for other in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
        other.write(EVERY[:3], content(EVERY[:3]))
        assert store.read(EVERY[:4])[0].tolist() == [True, True, True, False]
        store.write(EVERY[:4], content(EVERY[:4], salt=1))
        assert other.read(EVERY[3:4])[0].all()
        store._marks[:] = 0


# Read only


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason='only root may become another user')
def test_store_without_the_right_to_write_is_read_only() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are root's alone
        folder = Path(name)
        opened(folder).write(EVERY[:200], content(EVERY[:200]))
        for one in folder.iterdir():
            one.chmod(0o444)
        folder.chmod(0o555)
        queue = SPAWN.Queue()
        other = process(stores.read_as_nobody, name, 500, queue)
        assert queue.get(timeout=120) == (True, 200, True)
        other.join()


@pytest.mark.parametrize('finished', [0, 200, 500])
def test_read_only_store_is_read_and_ignores_rows_with_one_warning(
    finished: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path).write(EVERY[:finished], content(EVERY[:finished]))
    lines: list[str] = []
    monkeypatch.setattr(module, 'print_log', lambda text, **_: lines.append(text))
    store = opened(tmp_path, read_only=True)
    assert store.read_only
    for _ in range(3):
        store.write(EVERY, content(EVERY, salt=1))
    store.flush()
    found, data = store.read(EVERY)
    assert found.sum() == finished and np.array_equal(data[found], content(EVERY[found]))
    assert len(lines) == 1 and 'read only' in lines[0]
    assert pickle.loads(pickle.dumps(store)).read_only


@pytest.mark.parametrize('code', [errno.EACCES, errno.EROFS])
def test_store_on_a_disk_that_cannot_be_written_is_read_only(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path)
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_RDWR:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, 'open', refuse)
    assert opened(tmp_path).read_only


def test_read_only_store_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with raises_config_error('path', str(tmp_path / 'x'), fix='Fill'):
        opened(tmp_path / 'x', read_only=True)
    assert not (tmp_path / 'x').exists()


# Paths and disks


@pytest.mark.parametrize('below', ['', 'deeper/still'])
def test_path_below_a_file_is_an_error(below: str, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    folder = tmp_path / 'file' / below
    with raises_config_error('path', str(folder), 'can be written'):
        opened(folder)


@pytest.mark.parametrize('code', [errno.EACCES, errno.EROFS])
def test_path_that_cannot_be_written_is_an_error(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, 'mkdir', refuse)
    with raises_config_error('path', str(tmp_path / 'x'), os.strerror(code)):
        opened(tmp_path / 'x')


def test_size_above_the_free_space_is_an_error_with_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes.shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(9, 8, 1000))
    arithmetic = '5 views x 100 images x (204 + 4) bytes = 104 kB'
    with raises_config_error('path', str(tmp_path), arithmetic, '1 kB are free', fix='views'):
        opened(tmp_path)
    assert not list(tmp_path.glob('*.bin'))


@pytest.mark.parametrize('full_at', ['marks.bin', 'rows.bin'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT])
def test_disk_that_becomes_full_leaves_no_file_and_is_an_error(
    code: int, full_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.posix_fallocate

    def allocate(handle: int, offset: int, length: int) -> None:
        if os.readlink(f'/proc/self/fd/{handle}').endswith(full_at):
            raise OSError(code, os.strerror(code))
        real(handle, offset, length)

    monkeypatch.setattr(os, 'posix_fallocate', allocate)
    with raises_config_error('path', str(tmp_path), '104 kB', os.strerror(code)):
        opened(tmp_path)
    assert not list(tmp_path.glob('*.bin')) and not (tmp_path / 'manifest.json').exists()
    monkeypatch.undo()
    assert opened(tmp_path).finished == 0


def test_file_that_may_not_be_so_large_is_an_error_of_a_real_process(tmp_path: Path) -> None:
    queue = SPAWN.Queue()
    other = process(stores.open_with_small_files, str(tmp_path), 500, 50_000, queue)
    text = queue.get(timeout=120)
    other.join()
    assert 'ConfigError' in text and '104 kB' in text and 'File too large' in text
    assert not list(tmp_path.glob('*.bin'))


def test_files_have_their_blocks_before_the_first_write(tmp_path: Path) -> None:
    opened(tmp_path, rows=20_000)
    for name, size in (('rows.bin', 20_000 * 204), ('marks.bin', 20_000 * 4)):
        stat = (tmp_path / name).stat()
        assert stat.st_size == size and stat.st_blocks * 512 >= size


def test_files_are_made_without_fallocate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, 'posix_fallocate')
    store = opened(tmp_path, rows=20_000)
    assert store.finished == 0 and (tmp_path / 'rows.bin').stat().st_blocks * 512 >= 20_000 * 204


def test_size_above_the_limit_needs_max_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyramid = RowFormat(features={'neck[0]': (256, 100, 168)})
    settings = dict(format=pyramid, rows=50 * 118_287, manifest=dict(views=50))
    with raises_config_error('max_bytes', 64 << 30, '118,287 images', '50.9 TB', fix='max_bytes='):
        opened(tmp_path, **settings)
    with raises_config_error('max_bytes', 1000, '104 kB'):
        opened(tmp_path, max_bytes=1000)
    monkeypatch.setattr(sizes, 'LIMIT', 1000)
    with raises_config_error('max_bytes', 1000):
        opened(tmp_path)
    assert opened(tmp_path, max_bytes=104_000).finished == 0


@pytest.mark.parametrize('rows', [0, -5, 2.0])
def test_rows_that_are_no_positive_number_are_an_error(rows: Any, tmp_path: Path) -> None:
    with raises_config_error('rows', rows):
        opened(tmp_path, rows=rows)


# Damaged files


@pytest.mark.parametrize('name', ['rows.bin', 'marks.bin'])
@pytest.mark.parametrize('change', [-1, 1, None])
def test_file_of_another_length_is_an_error(name: str, change: int | None, tmp_path: Path) -> None:
    opened(tmp_path)
    size = (tmp_path / name).stat().st_size
    if change is None:
        (tmp_path / name).unlink()
    else:
        os.truncate(tmp_path / name, size + change)
    with raises_config_error('path', str(tmp_path), name, f'{size:,}', fix='Delete'):
        opened(tmp_path)


@pytest.mark.parametrize(
    'text', ['', '{', '[]', '3', 'null', '\x80\x04K\x05.', '{"a":' * 100_000, '"manifest"']
)
def test_manifest_that_is_none_is_an_error(text: str, tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / 'manifest.json').write_bytes(text.encode('latin1'))
    with raises_config_error('path', str(tmp_path), 'manifest.json', fix='Delete'):
        opened(tmp_path)


def test_manifest_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    opened(tmp_path)
    os.truncate(tmp_path / 'manifest.json', 1 << 30)
    with raises_config_error('path', str(tmp_path), '1,073,741,824 bytes'):
        opened(tmp_path)


def test_path_inside_a_manifest_is_a_difference_and_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / 'store'
    opened(folder)
    saved = json.loads((folder / 'manifest.json').read_text())
    for name in ('rows', 'path', 'rows.bin'):
        changed = {**saved, name: '../../outside'}
        (folder / 'manifest.json').write_text(json.dumps(changed))
        with pytest.raises(ConfigError) as caught:
            opened(folder)
        assert caught.value.key == name
    assert [one.name for one in tmp_path.iterdir()] == ['store']


# Truncation


def test_truncation_of_all_processes_is_added(tmp_path: Path) -> None:
    logits = torch.randn(4, 300)
    output = NetworkOutput(ClassScores.of_images(logits))
    checks = np.zeros(4, np.uint32)
    largest = []
    for number in range(3):
        row = RowFormat(LogitCodec(300, top=5))
        store = opened(tmp_path, format=row)
        store.write(EVERY[:4], row.pack(output, checks))
        store.flush()
        largest.append(row.truncation.largest)
        assert store.truncation.images == 4 * (number + 1)
    assert store.truncation.largest == max(largest) > 0
    fresh = opened(tmp_path, format=RowFormat(LogitCodec(300, top=5)))
    assert fresh.truncation.images == 12
    assert copy.deepcopy(store).truncation.images == 12


@pytest.mark.parametrize('text', ['', '[]', '{"largest": 3}', '{"images": {}}'])
def test_damaged_truncation_is_left_out(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(module, 'print_log', lambda text, **_: lines.append(text))
    store = opened(tmp_path)
    (tmp_path / 'truncation-x.json').write_text(text)
    assert store.truncation.images == 0 and len(lines) == 1
