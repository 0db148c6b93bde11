"""Seeds of views, and a block of code that draws from them alone."""

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch

_INNER = np.random.MT19937(0)


def seed_of(seed: int, index: int, view: int) -> int:
    """Return the seed of one view of one image: 64 bits, equal on every machine.

    Args:
        seed: The seed of the data set.
        index: Index of the image.
        view: Number of the view.

    Example:
        >>> seed_of(0, 5, 1)
        17808795704292948557
        >>> seed_of(0, 5, 1) == seed_of(0, 1, 5)
        False
    """
    numbers = struct.pack('<qqq', seed, index, view)
    return int.from_bytes(blake2b(numbers, digest_size=8).digest(), 'little')


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run the body under a seed of ``random``, ``numpy.random`` and torch's CPU generator.

    The three generators continue after it as if it had not run, also if it raises; only the second
    of two normal numbers, which ``numpy.random`` may hold ready, is drawn anew. Generators of GPUs
    are left alone: transforms run on the CPU.

    Args:
        seed: 0 to 2^64 - 1.

    Example:
        >>> with seeded(7):
        ...     first = random.random(), np.random.rand(), torch.rand(1)
        >>> with seeded(7):
        ...     assert (random.random(), np.random.rand(), torch.rand(1)) == first
    """
    states = random.getstate(), torch.get_rng_state()
    # Exchanged, because a copy of its state takes as long as a small image's transforms.
    outer = np.random.get_bit_generator()
    nested = np.random.get_state() if outer is _INNER else None
    try:
        random.seed(seed)
        np.random.set_bit_generator(_INNER)
        np.random.seed(seed & 0xFFFFFFFF)
        # torch.manual_seed would seed the GPUs as well
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_bit_generator(outer)
        if nested is not None:
            np.random.set_state(nested)
        torch.set_rng_state(states[1])
