import multiprocessing
import os
from pathlib import Path

import pytest
from experiments.study.lines import append_line, read_lines


def _append_many(path: Path, writer: int) -> None:
    for number in range(50):
        append_line(path, {'writer': writer, 'number': number, 'filling': 'x' * 20_000})


def test_append_line_several_writers_lose_and_mix_nothing(tmp_path: Path) -> None:
    path = tmp_path / 'results/study.jsonl'
    writers = [
        multiprocessing.get_context('fork').Process(target=_append_many, args=(path, w))
        for w in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = [(line['writer'], line['number']) for line in read_lines(path)]
    assert sorted(found) == [(writer, number) for writer in range(4) for number in range(50)]


def test_append_line_on_a_full_disk_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'study.jsonl'
    append_line(path, {'seed': 0})

    def full_disk(_: object) -> None:
        raise OSError('no space left')

    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(OSError, match='no space left'):
        append_line(path, {'seed': 1})
    assert path.read_text() == '{"seed": 0}\n'


def test_append_line_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='JSON compliant'):
        append_line(tmp_path / 'study.jsonl', {'val': float('nan')})
    assert not (tmp_path / 'study.jsonl').exists()


def test_read_lines_without_file_returns_none(tmp_path: Path) -> None:
    assert read_lines(tmp_path / 'none.jsonl') == []
