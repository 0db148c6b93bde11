"""A row format as JSON, for the manifest of a store, and back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.replay.box_rows import BoxForm
from mmkd_plugin.replay.dense import DenseCodec
from mmkd_plugin.replay.logits import LogitCodec
from mmkd_plugin.replay.rows import RowFormat


def describe(row: RowFormat) -> dict[str, Any]:
    """Return a format as JSON values.

    Example:
        >>> describe(RowFormat(LogitCodec(10)))['scores']
        {'kind': 'image', 'columns': 10, 'activation': 'softmax', 'top': None, 'dtype': 'float16'}
    """
    scores: dict[str, Any] | None = None
    if isinstance(row.scores, DenseCodec):
        scores = dict(kind='dense', **asdict(row.scores))
        scores['anchors'] = list(row.scores.anchors)
    elif row.scores is not None:
        scores = dict(kind='image', **asdict(row.scores))
    boxes = None if row.boxes is None else asdict(row.boxes)
    if boxes is not None:
        boxes['priors'] = [list(one) for one in boxes['priors']]
    return dict(
        scores=scores,
        features={tap: list(shape) for tap, shape in row.features.items()},
        dtype=row.dtype,
        strides=[list(one) for one in row.strides],
        boxes=boxes,
    )


def described(saved: Any) -> RowFormat:
    """Return the format that :func:`describe` described.

    Teachers whose outputs are all stored need not be built: this tells the form of their outputs.

    Raises:
        ConfigError: If it is no such description.

    Example:
        >>> row = RowFormat(LogitCodec(10), {'neck': (64,)})
        >>> described(describe(row)) == row
        True
    """
    try:
        return _described(saved)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            'manifest.format',
            f'describes no row: {error}',
            'Delete the folder of the store; it is filled again.',
        ) from error


def _described(saved: Mapping[str, Any]) -> RowFormat:
    scores: LogitCodec | DenseCodec | None = None
    if saved['scores'] is not None:
        given = dict(saved['scores'])
        kind = given.pop('kind')
        if kind == 'dense':
            codec = LogitCodec(**given.pop('codec'))
            scores = DenseCodec(codec, tuple(map(_count, given.pop('anchors'))), **given)
        elif kind == 'image':
            scores = LogitCodec(**given)
        else:
            raise ValueError(f'unknown kind {kind!r}')
    boxes = saved['boxes']
    if boxes is not None:
        boxes = BoxForm(**{**boxes, 'priors': tuple(map(tuple, boxes['priors']))})
    features = {str(tap): tuple(map(_count, shape)) for tap, shape in saved['features'].items()}
    strides = tuple((float(across), float(down)) for across, down in saved['strides'])
    return RowFormat(scores, features, saved['dtype'], strides, boxes)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f'{value!r} is no size')
    return value
