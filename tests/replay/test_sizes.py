"""Sizes of rows and stores, and the tables of the docs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd_plugin.outputs import ClassScores, NetworkOutput
from mmkd_plugin.replay import RowFormat
from mmkd_plugin.replay.dense import DenseCodec
from mmkd_plugin.replay.sizes import arithmetic, human, total_bytes, usual_rows

PAGE = (Path(__file__).parents[2] / 'docs/replay.md').read_text()


@pytest.mark.parametrize(
    ('count', 'text'),
    [(0, '0 B'), (999, '999 B'), (1000, '1 kB'), (5.796e9, '5.8 GB'), (1.35e12, '1.35 TB'),
     (9e16, '9e+04 TB')],
)  # fmt: skip
def test_human_bytes_have_three_digits(count: float, text: str) -> None:
    assert human(count) == text


@pytest.mark.parametrize('name', [name for name in usual_rows() if 'dense' not in name])
def test_size_of_a_usual_row_is_that_of_packed_outputs(name: str) -> None:
    row = usual_rows()[name]
    codec = row.scores
    assert not isinstance(codec, DenseCodec)
    scores = None if codec is None else ClassScores.of_images(torch.zeros(1, codec.columns))
    features = {tap: torch.zeros(1, *shape) for tap, shape in row.features.items()}
    packed = row.pack(NetworkOutput(scores, features), np.zeros(1, np.uint32))
    assert packed.shape == (1, row.row_bytes)


def test_table_of_the_docs_has_every_usual_row() -> None:
    table = re.findall(r'^\| (.+?) \| ([\d,]+) \| (.+?) \|$', PAGE, re.M)
    expected = {
        name: (f'{row.row_bytes:,}', human(total_bytes(row.row_bytes, 50 * images(name))))
        for name, row in usual_rows().items()
    }
    assert {name: tuple(rest) for name, *rest in table} == expected


def images(name: str) -> int:
    """Return the number of images that the table of the docs reckons with."""
    if 'ImageNet' in name:
        return 1_281_167
    return 118_287 if 'COCO' in name or 'pyramid' in name else 50_000


@pytest.mark.parametrize(('row_bytes', 'images', 'views'), [(204, 50_000, 50), (88, 1_281_167, 50)])
def test_arithmetic_of_the_docs_is_that_of_the_error(
    row_bytes: int, images: int, views: int
) -> None:
    assert arithmetic(row_bytes, images, views) in re.sub(r'\s+', ' ', PAGE)


def test_format_states_its_parts() -> None:
    row = RowFormat(features={'neck': (64,)})
    assert row.parts == {'checksum': 4, 'features.neck': 128} and row.row_bytes == 132
