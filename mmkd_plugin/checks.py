"""Checks of numbers and words from a config: one error, which names the key, what was expected and what came."""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def positive(key: str, value: Any) -> float:
    """A finite number above 0."""
    if not _finite(value) or value <= 0:
        raise ValueError(f'{key}: expected a number > 0, got {value!r}')
    return float(value)


def weight(key: str, value: Any) -> float:
    """A finite number of at least 0: the weight of a loss."""
    if not _finite(value) or value < 0:
        raise ValueError(f'{key}: expected a number >= 0, got {value!r}')
    return float(value)


def count(key: str, value: Any) -> int:
    """A whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f'{key}: expected an integer >= 1, got {value!r}')
    return value


def choice(key: str, value: Any, allowed: Collection[str]) -> str:
    """One of several words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f'{key}: expected one of {", ".join(repr(word) for word in allowed)}, got {value!r}')
    return value


def no_nan(key: str, config: Any) -> None:
    """Refuse NaN anywhere inside a config."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            no_nan(f'{key}.{name}', value)
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            no_nan(f'{key}[{index}]', value)
    elif isinstance(config, float) and math.isnan(config):
        raise ValueError(f'{key}: expected a number, got nan')


@contextmanager
def under(key: str) -> Iterator[None]:
    """Say where in the config: a ValueError from the body, which begins with a key, gets ``key`` before it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{key}.{error}') from error


@contextmanager
def arguments(key: str) -> Iterator[None]:
    """Where a config becomes arguments: as :func:`under`, and one that is not known is an error of the same kind."""
    try:
        with under(key):
            yield
    except TypeError as error:
        raise ValueError(f'{key}: expected other arguments: {error}') from error


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
