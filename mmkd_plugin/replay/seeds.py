"""Seeds of views, and a block of code that draws from them alone."""

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch


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

    The three states before the body are restored after it, also if it raises. Generators of GPUs
    are left alone: transforms run on the CPU.

    Args:
        seed: 0 to 2^64 - 1.

    Example:
        >>> with seeded(7):
        ...     first = random.random(), np.random.rand(), torch.rand(1)
        >>> with seeded(7):
        ...     assert (random.random(), np.random.rand(), torch.rand(1)) == first
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
        # torch.manual_seed would seed the GPUs as well
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
