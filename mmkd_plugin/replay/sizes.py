"""Bytes of a store: the arithmetic, before anything is written."""

import shutil
from pathlib import Path

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.replay.box_rows import BoxForm
from mmkd_plugin.replay.dense import DenseCodec
from mmkd_plugin.replay.logits import LogitCodec
from mmkd_plugin.replay.rows import RowFormat

#: Bytes a row beside the row: its mark.
MARK_BYTES = 4
#: A larger store needs ``max_bytes``.
LIMIT = 64 << 30


def total_bytes(row_bytes: int, rows: int) -> int:
    """Return the bytes of a store, with the mark of each row."""
    return rows * (row_bytes + MARK_BYTES)


def arithmetic(row_bytes: int, images: int, views: int) -> str:
    """Return the size of a store in words.

    Example:
        >>> arithmetic(204, images=50_000, views=50)
        '50 views x 50,000 images x (204 + 4) bytes = 520 MB'
    """
    total = total_bytes(row_bytes, images * views)
    return (
        f'{views:,} views x {images:,} images x ({row_bytes:,} + {MARK_BYTES}) bytes = '
        f'{human(total)}'
    )


def human(count: float) -> str:
    """Return a number of bytes in decimal units, with three digits.

    Example:
        >>> human(999), human(5_796_000_000)
        ('999 B', '5.8 GB')
    """
    for unit in ('B', 'kB', 'MB', 'GB', 'TB'):
        if count < 1000 or unit == 'TB':
            break
        count /= 1000
    return f'{count:.3g} {unit}'


def require_size(
    row_bytes: int, images: int, views: int, max_bytes: int | None, folder: Path
) -> None:
    """Refuse a store that is larger than wanted, or than the disk.

    Args:
        row_bytes: Bytes of a row.
        images: Number of images.
        views: Number of views of each.
        max_bytes: Largest size that is wanted; None for 64 GiB.
        folder: An existing folder on the disk of the store.

    Raises:
        ConfigError: With the arithmetic.
    """
    total = total_bytes(row_bytes, images * views)
    text = arithmetic(row_bytes, images, views)
    limit = LIMIT if max_bytes is None else max_bytes
    fewer = 'Store fewer views or taps, float16, a lower top or fewer locations'
    if total > limit:
        raise ConfigError(
            'max_bytes',
            f'is below the size of the store: {text}',
            f'{fewer}, or write max_bytes={total}.',
            found=limit,
        )
    free = shutil.disk_usage(folder).free
    if total > free:
        raise ConfigError(
            'path',
            f'has no room for the store: {text}, and {human(free)} are free',
            f'{fewer}, or give a path on another disk.',
            found=str(folder),
        )


def usual_rows() -> dict[str, RowFormat]:
    """Return the formats of usual teachers, by their description: the table of the docs."""
    half = LogitCodec(80, 'sigmoid')
    levels = (1, 1, 1, 1, 1)
    return {
        'CIFAR-100, all logits': RowFormat(LogitCodec(100)),
        'CIFAR-100, all logits, float32': RowFormat(
            LogitCodec(100, dtype='float32'), dtype='float32'
        ),
        'ImageNet, top=20': RowFormat(LogitCodec(1000, top=20)),
        'ImageNet, top=100': RowFormat(LogitCodec(1000, top=100)),
        'ImageNet, all logits': RowFormat(LogitCodec(1000)),
        'pooled embedding, 512': RowFormat(features={'neck': (512,)}),
        'factor, 32 x 8 x 8': RowFormat(features={'factor': (32, 8, 8)}),
        'attention map, 8 x 8': RowFormat(features={'map': (8, 8)}),
        'map, 64 x 8 x 8': RowFormat(features={'map': (64, 8, 8)}),
        'COCO, dense head, locations=384': RowFormat(DenseCodec(half, levels, 384)),
        'COCO, dense head, locations=384, boxes of 17 bins': RowFormat(
            DenseCodec(half, levels, 384), boxes=BoxForm('distribution', 17)
        ),
        'pyramid of 800 x 1344, 256 channels': RowFormat(
            features={f'neck[{n}]': (256, -(-100 // 2**n), 168 >> n) for n in range(5)}
        ),
    }
