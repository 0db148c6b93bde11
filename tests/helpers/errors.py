"""Checks of error messages: key, found value and remedy, not the wording around them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mmkd_plugin.errors import ConfigError

#: Stands for a found value that is not compared.
ANY: Any = object()


@contextmanager
def raises_config_error(
    key: str, found: Any = ANY, *mentions: str, fix: str | None = None
) -> Iterator[None]:
    """Expect a :class:`ConfigError` for ``key``.

    Args:
        key: The whole key, such as ``'methods.kd.temperature'``.
        found: The value that the message must show; left out if the error has none.
        mentions: Words that the message must contain, such as the name of a layer.
        fix: Words that the remedy must contain; ``''`` asks for any remedy.
    """
    with pytest.raises(ConfigError) as caught:
        yield
    error = caught.value
    assert error.key == key, f'the error is about {error.key!r}: {error}'
    if found is not ANY:
        assert error.found == repr(found), f'the error shows {error.found}: {error}'
    for words in mentions:
        assert words in str(error), f'{words!r} is not in: {error}'
    if fix is not None:
        assert error.fix and fix in error.fix, f'the remedy is {error.fix!r}: {error}'
    assert str(error).startswith(f'{key}: ') and '\n' not in str(error)
