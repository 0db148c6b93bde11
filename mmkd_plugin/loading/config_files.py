"""Read config files: paths, and ``pkg::path`` inside an installed package."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from pathlib import Path

from mmengine import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import get_installed_path

from mmkd_plugin.errors import ConfigError, nearest_names
from mmkd_plugin.installed import has

_SUFFIXES = ('.py', '.yml', '.yaml', '.json')
#: Configs that :func:`reading_once` keeps, by their paths; None outside of it.
_READ: ContextVar[dict[str, Config] | None] = ContextVar('_READ', default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Read each config file once while the body runs, however often it is asked for.

    A base such as ``'mmdet::…'`` makes MMEngine read all metafiles of that package at each reading.
    """
    token = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(token)


def read_config(path: str, key: str) -> Config:
    """Read a config file or ``pkg::path``.

    Raises:
        ConfigError: If the package or a file is missing.
    """
    kept = _READ.get()
    if kept is None:
        return _read_config(path, key)
    if path not in kept:
        kept[path] = _read_config(path, key)
    return deepcopy(kept[path])


def _read_config(path: str, key: str) -> Config:
    package, separator, inner = path.partition('::')
    if separator:
        if not has(package):  # the hub would install it from the network, unasked
            raise ConfigError(
                key,
                f'needs the package {package!r}, which is not installed',
                _install(package),
                found=path,
            )
        file = _configs_of(package) / inner
        try:
            if file.is_file():
                return Config.fromfile(file)
            from mmengine.hub import get_config  # it reads all metafiles of the package

            return get_config(path)
        except (FileNotFoundError, ValueError, KeyError, AssertionError) as error:
            raise _missing_config(package, inner, path, key, error) from error
    if not Path(path).is_file():
        raise ConfigError(
            key,
            "must be the path of a config file, or 'pkg::path'",
            f'No file is there. Relative paths begin at {Path.cwd()}.',
            found=path,
        )
    if Path(path).suffix not in _SUFFIXES:
        raise ConfigError(
            key,
            f'must be a config file, which ends with {", ".join(_SUFFIXES)}',
            'A teacher is its config, then its checkpoint.',
            found=path,
        )
    try:
        return Config.fromfile(path)
    except FileNotFoundError as error:
        raise ConfigError(key, f'needs a file that is not there: {error}', found=path) from error
    except Exception as error:  # a config is a program
        words = (str(error).strip().splitlines() or [''])[0]
        raise ConfigError(
            key, f'cannot be read: {type(error).__name__}: {words}', found=path
        ) from error


def _install(package: str) -> str:
    if package in MODULE2PACKAGE:
        return f'Run: pip install {MODULE2PACKAGE[package]}'
    return f'The nearest packages are {nearest_names(package, MODULE2PACKAGE, most=3)}.'


def _configs_of(package: str) -> Path:
    return Path(get_installed_path(MODULE2PACKAGE.get(package, package))) / '.mim' / 'configs'


def _missing_config(package: str, inner: str, path: str, key: str, error: Exception) -> ConfigError:
    folder = _configs_of(package)
    known = [str(file.relative_to(folder).as_posix()) for file in folder.rglob('*.py')]
    if not known:
        return ConfigError(key, f'{package!r} ships no configs', found=path)
    if inner in known:
        return ConfigError(key, f'cannot be read: {error}', found=path)
    nearest = nearest_names(inner, known, most=3)
    return ConfigError(key, f'is no config of {package}', f'The nearest are {nearest}.', found=path)
