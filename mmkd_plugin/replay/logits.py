"""Logits as bytes: all of them, or the largest and the mass of the rest."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd_plugin.errors import ConfigError, one_of, positive_integer

Bytes = NDArray[np.uint8]
DTYPES = ('float16', 'float32')
#: Up to so many columns all logits are kept, whatever ``top`` is.
ALL_UP_TO = 256


def to_bytes(values: Tensor, dtype: str, key: str) -> Bytes:
    """Return the rows of a tensor (R, …) as bytes (R, B).

    Raises:
        ConfigError: If a value is NaN, infinite, or too large for ``dtype``.
    """
    rounded = values.detach().to(getattr(torch, dtype)).cpu()
    if not bool(torch.isfinite(rounded).all()):
        worst = values.detach().abs().amax().item()
        if np.isfinite(worst):
            problem = 'outputs are too large for float16, which ends at 65504'
            raise ConfigError(key, problem, "Write dtype='float32'.", found=worst)
        raise ConfigError(
            key, 'must output finite numbers', 'Check the teacher and its precision.', found=worst
        )
    array: Bytes = np.ascontiguousarray(rounded.flatten(1).numpy())
    return array.view(np.uint8)


def from_bytes(data: Bytes, dtype: str) -> Tensor:
    """Return rows of bytes (R, B) as float32 (R, D)."""
    # A copy, as rows may be read-only. Torch widens float16 several times as fast as numpy.
    return torch.from_numpy(np.array(data, order='C').view(dtype)).float()


@dataclass(frozen=True)
class LogitCodec:
    r"""Logits of C classes as bytes.

    All C are kept if ``top`` is None or C is at most 256. Otherwise the K largest are kept, each
    with its class, and one number for the others. When read, all others have the logit

    .. math:: r = \log \frac{1}{C - K} \sum_{c \notin \text{top}} e^{z_c} \quad (\text{softmax}),
              \qquad \sigma(r) = \frac{1}{C - K} \sum_{c \notin \text{top}} \sigma(z_c) \quad
              (\text{sigmoid})

    so that at temperature 1 the K probabilities and the sum of the others are those of all logits.
    At other temperatures the sum is approximate.

    Args:
        columns: C, with the background if there is one.
        activation: ``'softmax'`` or ``'sigmoid'``.
        top: K; None keeps all.
        dtype: ``'float16'`` or ``'float32'``.

    Raises:
        ConfigError: If ``top`` is not in 1 to C - 1.

    Example:
        >>> codec = LogitCodec(columns=1000, activation='softmax', top=20)
        >>> codec.nbytes
        84
        >>> codec.decode(codec.encode(torch.zeros(2, 1000))).shape
        torch.Size([2, 1000])
    """

    columns: int
    activation: str = 'softmax'
    top: int | None = None
    dtype: str = 'float16'

    def __post_init__(self) -> None:
        one_of('dtype', self.dtype, DTYPES)
        one_of('activation', self.activation, ('softmax', 'sigmoid'))
        if self.top is not None and positive_integer('top', self.top) >= self.columns:
            raise ConfigError(
                'top',
                f'must be below the number of classes, {self.columns}',
                'top=None keeps all logits.',
                found=self.top,
            )

    @property
    def kept(self) -> int:
        """Number of logits that are kept."""
        return self.columns if self.top is None or self.columns <= ALL_UP_TO else self.top

    @property
    def exact(self) -> bool:
        """Whether what is read equals what was written in float32 or narrower."""
        return self.kept == self.columns and self.dtype == 'float32'

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        each = np.dtype(self.dtype).itemsize
        if self.kept == self.columns:
            return self.columns * each
        return self.kept * (each + self._index.itemsize) + 4

    @property
    def _index(self) -> np.dtype[Any]:
        return np.dtype(np.uint16 if self.columns <= 1 << 16 else np.uint32)

    def encode(self, logits: Tensor, key: str = 'scores') -> Bytes:
        """Return logits (R, C) as bytes (R, nbytes).

        Raises:
            ConfigError: If a logit is NaN, infinite, or too large for the dtype.
        """
        if self.kept == self.columns:
            return to_bytes(logits, self.dtype, key)
        logits = logits.detach().float()
        values, indices = logits.topk(self.kept, dim=1)
        others = logits.scatter(1, indices, float('-inf'))
        if self.activation == 'softmax':
            rest = others.logsumexp(dim=1) - float(np.log(self.columns - self.kept))
        else:
            rest = (others.double().sigmoid().sum(dim=1) / (self.columns - self.kept)).logit()
            rest = rest.clamp(-1e4, 1e4).float()
        classes: Bytes = np.ascontiguousarray(indices.cpu().numpy().astype(self._index))
        parts = [
            to_bytes(values, self.dtype, key),
            classes.view(np.uint8),
            to_bytes(rest.unsqueeze(1), 'float32', key),
        ]
        return np.concatenate(parts, axis=1)

    def decode(self, data: Bytes) -> Tensor:
        """Return rows of bytes (R, nbytes) as logits (R, C) in float32.

        Raises:
            ValueError: If a class is none of the C.
        """
        if self.kept == self.columns:
            return from_bytes(data, self.dtype)
        first = self.kept * np.dtype(self.dtype).itemsize
        values = from_bytes(data[:, :first], self.dtype)
        classes = np.ascontiguousarray(data[:, first:-4]).view(self._index).astype(np.int64)
        if classes.size and classes.max() >= self.columns:
            raise ValueError(f'class {classes.max()} of {self.columns}')
        rest = from_bytes(data[:, -4:], 'float32')
        return rest.expand(-1, self.columns).scatter(1, torch.from_numpy(classes), values)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Apply the activation, in float32 on the CPU."""
        logits = logits.detach().float().cpu()
        return logits.sigmoid() if self.activation == 'sigmoid' else logits.softmax(dim=-1)
