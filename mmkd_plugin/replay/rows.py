"""The row of a store: the outputs of one network for one view of one image, as bytes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd_plugin.boxes import Levels
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import BoxOutputs, ClassScores, NetworkOutput
from mmkd_plugin.replay.box_rows import BoxForm
from mmkd_plugin.replay.dense import DenseCodec
from mmkd_plugin.replay.logits import DTYPES, Bytes, LogitCodec, from_bytes, to_bytes
from mmkd_plugin.replay.refusals import refuse_shared
from mmkd_plugin.replay.truncation import Truncation

Strides = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class RowFormat:
    """The parts of a row, and their order.

    A row is the checksum of the augmented image (4 bytes), then the class scores, then the boxes of
    the locations that are kept, then the features in the order of their taps.

    Args:
        scores: Class scores: a :class:`LogitCodec` for a classifier, a :class:`DenseCodec` for a
            dense head, None for none.
        features: Shape of each tap, without the batch.
        dtype: Type of features and boxes, ``'float16'`` or ``'float32'``.
        strides: (across, down) of each level of a dense head, if it states them.
        boxes: Form of the boxes; None for none.

    Attributes:
        truncation: Loss of the rows that this process packed.

    Example:
        >>> output = NetworkOutput(ClassScores.of_images(torch.zeros(8, 100)))
        >>> row = RowFormat.of(output)
        >>> row.row_bytes
        204
        >>> rows = row.pack(output, np.zeros(8, np.uint32))
        >>> row.unpack(rows)[0].scores.logits.shape
        torch.Size([8, 1, 100])
    """

    scores: LogitCodec | DenseCodec | None = None
    features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtype: str = 'float16'
    strides: Strides = ()
    boxes: BoxForm | None = None
    truncation: Truncation = field(default_factory=Truncation, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        output: NetworkOutput,
        dtype: str = 'float16',
        top: int | None = None,
        locations: int = 512,
        background: float = 0.05,
    ) -> 'RowFormat':
        """Return the format for outputs like this one.

        Args:
            output: Outputs of a batch, or of a probe.
            dtype: ``'float16'`` or ``'float32'``; the latter returns outputs bit for bit.
            top: Number of class scores that are kept, if there are more than 256.
            locations: Number of locations an image that are kept of a dense head.
            background: Probability from which a location of a dense head is kept.

        Raises:
            ConfigError: If an argument is wrong, or if the outputs depend on the student: regions
                of two-stage detectors, queries of decoders.
        """
        refuse_shared(output)
        scores = output.scores
        codec: LogitCodec | DenseCodec | None = None
        if scores is not None:
            codec = LogitCodec(scores.logits.shape[-1], scores.activation, top, dtype)
            if scores.levels:
                anchors = tuple(level[2] for level in scores.levels)
                codec = DenseCodec(codec, anchors, locations, background, scores.background)
        shapes = {tap: tuple(value.shape[1:]) for tap, value in output.features.items()}
        form = None if output.boxes is None else BoxForm.of(output.boxes)
        return cls(codec, shapes, dtype, scores.strides if scores else (), form)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError('dtype', f'must be one of {DTYPES}', found=self.dtype)
        if self.boxes is not None and not isinstance(self.scores, DenseCodec):
            raise ConfigError('replay', 'stores boxes of dense heads with their class scores only')

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each part of a row, by name."""
        found = {'checksum': 4}
        if self.scores is not None:
            found['scores'] = self.scores.nbytes
        if self.boxes is not None:
            found['boxes'] = self._locations * self.boxes.nbytes(self.dtype)
        for tap, shape in self.features.items():
            found[f'features.{tap}'] = math.prod(shape) * self._item
        return found

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(self.parts.values())

    @property
    def exact(self) -> bool:
        """Whether float32 outputs are returned bit for bit, at all locations that are kept."""
        codec = self.scores.codec if isinstance(self.scores, DenseCodec) else self.scores
        return self.dtype == 'float32' and (codec is None or codec.exact)

    def pack(
        self,
        output: NetworkOutput,
        checksums: NDArray[np.uint32],
        priority: Tensor | None = None,
    ) -> Bytes:
        """Return the outputs of a batch as rows (N, row_bytes); see :attr:`truncation`.

        Args:
            output: Outputs for N images.
            checksums: Checksums of the N augmented images.
            priority: Priority of each location of a dense head; see :meth:`DenseCodec.encode`.

        Raises:
            ConfigError: If a shape is another than that of the format, or a number is NaN, infinite
                or too large for float16.
        """
        refuse_shared(output)
        output = output.detach()
        checks: Bytes = np.ascontiguousarray(checksums, '<u4')[:, None].view(np.uint8)
        blocks = [checks]
        self.truncation.images += len(checks)
        if isinstance(self.scores, DenseCodec):
            scores = _present(output.scores, 'scores')
            block, chosen = self.scores.encode(scores, self.truncation, priority)
            blocks.append(block)
            if self.boxes is not None:
                boxes = _present(output.boxes, 'boxes')
                blocks.append(self.boxes.encode(boxes, chosen, self.dtype))
        elif self.scores is not None:
            blocks.append(self._image_block(_present(output.scores, 'scores'), self.scores))
        for tap, shape in self.features.items():
            value = _present(output.features.get(tap), f'features.{tap}')
            if tuple(value.shape[1:]) != shape:
                raise ConfigError(
                    f'replay.features.{tap}',
                    f'must have the shape {shape} in every batch',
                    'Maps whose size depends on the padding cannot be stored.',
                    found=tuple(value.shape[1:]),
                )
            blocks.append(to_bytes(value, self.dtype, tap))
            if self.dtype == 'float16':
                stored = from_bytes(blocks[-1], self.dtype).reshape(value.shape)
                self.truncation.compare_feature(value.cpu(), stored)
        return np.concatenate(blocks, axis=1)

    def unpack(
        self, rows: Bytes, device: torch.device | str = 'cpu', levels: Levels | None = None
    ) -> tuple[NetworkOutput, NDArray[np.uint32]]:
        """Return the outputs in rows (N, row_bytes), in float32, and the checksums of the images.

        Args:
            rows: From :meth:`pack`.
            device: Device of the outputs.
            levels: Levels of the batch of a dense detector. None takes the largest of its images.

        Raises:
            ValueError: If the bytes are no such rows.
        """
        if rows.ndim != 2 or rows.shape[1] != self.row_bytes:
            raise ValueError(f'rows of {rows.shape} are not (N, {self.row_bytes})')
        blocks: dict[str, Bytes] = {}
        start = 0
        for name, size in self.parts.items():
            blocks[name] = rows[:, start : start + size]
            start += size
        checksums = np.ascontiguousarray(blocks['checksum']).view('<u4')[:, 0]
        scores: ClassScores | None = None
        boxes: BoxOutputs | None = None
        if isinstance(self.scores, DenseCodec):
            logits, sizes, valid, chosen = self.scores.decode(blocks['scores'], levels)
            valid = None if valid is None else valid.to(device)
            codec, background = self.scores.codec, self.scores.has_background
            scores = ClassScores(
                logits.to(device), codec.activation, background, sizes, (), valid, self.strides
            )
            if self.boxes is not None:
                form = self.boxes
                values = form.decode(blocks['boxes'], chosen, sizes, self.dtype).to(device)
                boxes = BoxOutputs(values, form.kind, form.coding, form.priors, sizes, valid)
        elif self.scores is not None:
            logits = self.scores.decode(blocks['scores']).to(device)
            scores = ClassScores.of_images(logits, self.scores.activation)
        features = {
            tap: from_bytes(blocks[f'features.{tap}'], self.dtype)
            .reshape(len(rows), *shape)
            .to(device)
            for tap, shape in self.features.items()
        }
        return NetworkOutput(scores, features, boxes), checksums

    @property
    def _item(self) -> int:
        return np.dtype(self.dtype).itemsize

    @property
    def _locations(self) -> int:
        return self.scores.locations if isinstance(self.scores, DenseCodec) else 0

    def _image_block(self, scores: ClassScores, codec: LogitCodec) -> Bytes:
        if not scores.per_image or scores.logits.shape[-1] != codec.columns:
            raise ConfigError(
                'replay', f'stores {codec.columns} scores an image', found=str(scores)
            )
        block = codec.encode(scores.logits[:, 0])
        if not codec.exact:
            found = codec.probabilities(codec.decode(block))
            self.truncation.compare(codec.probabilities(scores.logits[:, 0]), found)
        return block


def _present(value: Any, name: str) -> Any:
    if value is None:
        raise ConfigError(f'replay.{name}', 'is not among the outputs of the teacher')
    return value
