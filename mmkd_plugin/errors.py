"""Errors about a config, and the checks that raise them.

Every message reads ``key: problem (found X). Fix.``: one line with the key, the value and the
remedy.
"""

import difflib
import inspect
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

T = TypeVar('T')
_NOTHING: Any = object()


class ConfigError(ValueError):
    """A setting that cannot be used.

    Args:
        key: The config key, such as ``'methods.kd.temperature'``.
        problem: The rule that the value breaks, without a full stop.
        fix: The remedy, as whole sentences.
        found: The value that was found, if there is one to show.

    Attributes:
        key, problem, fix: As given.
        found: The value as text; None if none was given.

    Example:
        >>> raise ConfigError('temperature', 'must be a number > 0', 'Use 4.0.', found=0)
        Traceback (most recent call last):
        mmkd_plugin.errors.ConfigError: temperature: must be a number > 0 (found 0). Use 4.0.
    """

    def __init__(self, key: str, problem: str, fix: str = '', *, found: Any = _NOTHING) -> None:
        self.key = key
        self.problem = problem
        self.fix = fix
        self.found: str | None = None if found is _NOTHING else repr(found)
        super().__init__(key, problem, fix)

    def __str__(self) -> str:
        found = '' if self.found is None else f' (found {self.found})'
        return f'{self.key}: {self.problem}{found}. {self.fix}'.strip()

    def inside(self, key: str) -> 'ConfigError':
        """Return the same error with ``key`` before its own key."""
        separator = '' if self.key.startswith('[') else '.'
        error = type(self)(
            f'{key}{separator}{self.key}' if self.key else key, self.problem, self.fix
        )
        error.found = self.found
        return error

    def __reduce__(
        self,
    ) -> tuple[Any, ...]:  # exceptions cross processes; ``found`` is text already
        return type(self), (self.key, self.problem, self.fix), {'found': self.found}


@contextmanager
def config_key(key: str) -> Iterator[None]:
    """Put ``key`` before the key of a :class:`ConfigError` from the body.

    Other exceptions pass untouched.
    """
    try:
        yield
    except ConfigError as error:
        raise error.inside(key) from error.__cause__


@contextmanager
def one_line() -> Iterator[None]:
    """End a program by one line in place of a traceback, if its body raises ConfigError."""
    try:
        yield
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        raise SystemExit(1) from None


def construct(key: str, function: Callable[..., T], arguments: Mapping[str, Any]) -> T:
    """Call ``function(**arguments)``, where the arguments come from the config under ``key``.

    Raises:
        ConfigError: If an argument is unknown, missing or refused by the function.
    """
    parameters = inspect.signature(function).parameters
    named = {
        name: p
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in arguments.items():
        if name not in named and not open_ended:
            raise ConfigError(
                f'{key}.{name}',
                f'is not an argument of {_name(function)}',
                f'Its arguments are {", ".join(named)}.{_nearest(str(name), named)}',
                found=value,
            )
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ConfigError(f'{key}.{name}', 'is missing', f'{_name(function)} needs it.')
    with config_key(key):
        return function(**arguments)


def positive_number(key: str, value: Any) -> float:
    """Return a finite number above 0.

    Raises:
        ConfigError: If ``value`` is none.

    Example:
        >>> positive_number('temperature', 4)
        4.0
    """
    if (lowest := _lowest(value)) is not None:
        if lowest <= 0:
            raise ConfigError(key, 'must be a number > 0 at all times', found=lowest)
        return cast(float, value)
    if not _is_finite(value) or value <= 0:
        raise ConfigError(key, 'must be a number > 0', found=value)
    return float(value)


def non_negative_number(key: str, value: Any) -> float:
    """Return a finite number of at least 0, such as the weight of a loss.

    Raises:
        ConfigError: If ``value`` is none.
    """
    if _lowest(value) is not None:  # the numbers of a schedule are not negative
        return cast(float, value)
    if not _is_finite(value) or value < 0:
        raise ConfigError(key, 'must be a number >= 0', found=value)
    return float(value)


def fraction(key: str, value: Any) -> float:
    """Return a number in [0, 1), such as a least confidence.

    Raises:
        ConfigError: If ``value`` is none.
    """
    scheduled = _lowest(value) is not None  # then it has its largest value now, and none below 0
    if not (scheduled or (_is_finite(value) and value >= 0)) or value >= 1:
        raise ConfigError(key, 'must be a number in [0, 1)', found=value)
    return cast(float, value)


def positive_integer(key: str, value: Any) -> int:
    """Return an integer of at least 1.

    Raises:
        ConfigError: If ``value`` is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(key, 'must be an integer >= 1', found=value)
    return value


def one_of(key: str, value: Any, allowed: Collection[str]) -> str:
    """Return one of several words.

    Raises:
        ConfigError: If ``value`` is none of them; the message lists them.
    """
    if not isinstance(value, str) or value not in allowed:
        words = ', '.join(repr(word) for word in allowed)
        raise ConfigError(
            key, f'must be one of {words}', _nearest(str(value), allowed).strip(), found=value
        )
    return value


def mapping(key: str, value: Any, example: str) -> dict[str, Any]:
    """Return a config dict, empty for None.

    Raises:
        ConfigError: If ``value`` is neither.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(key, 'must be a dict', f'For example {example}.', found=value)
    return dict(value or {})


def no_nan(key: str, config: Any) -> None:
    """Refuse NaN anywhere inside a config.

    Raises:
        ConfigError: With the key of the first NaN.
    """
    if isinstance(config, Mapping):
        for name, value in config.items():
            no_nan(f'{key}.{name}', value)
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            no_nan(f'{key}[{index}]', value)
    elif isinstance(config, float) and math.isnan(config):
        raise ConfigError(key, 'must be a number', found=config)


def nearest_names(name: str, known: Collection[str], most: int = 5) -> str:
    """List the known names that look most like ``name``, each in quotes."""
    return ', '.join(map(repr, difflib.get_close_matches(name, known, n=most, cutoff=0.0)))


def _nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f' Did you mean {close[0]!r}?' if close else ''


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, '__name__', type(function).__name__)


def _lowest(value: Any) -> float | None:
    """Return the smallest value of a scheduled number; None for anything else."""
    return cast('float | None', getattr(value, 'lowest', None))


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
