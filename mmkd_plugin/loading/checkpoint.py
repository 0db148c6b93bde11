"""Read checkpoints without running code, and load them key by key."""

import hashlib
import io
import pickle
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from mmengine import dist, fileio
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.class_names import class_names
from mmkd_plugin.loading.keys import network_prefixes, state_of, without_prefix
from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed

_SIZES = re.compile(
    r'size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, '
    r'the shape in current model is torch\.Size\((.*?)\)\.'
)


class LoadedFile(NamedTuple):
    """The content of a checkpoint, and the SHA-256 of its file in hexadecimal digits."""

    content: dict[str, Any]
    sha256: str


class LoadedWeights(NamedTuple):
    """The SHA-256 of a loaded file in hexadecimal digits, and its class names, if it has any."""

    sha256: str
    classes: tuple[str, ...] | None


def load_file(path: str, key: str) -> LoadedFile:
    """Read a checkpoint from a path, a URL, or any storage that MMEngine's file clients support.

    Args:
        path: Its path. One process downloads ``http(s)://`` once, into the cache of torch hub.
        key: The config key of the path, for messages.

    Raises:
        ConfigError: If the file is missing, damaged, or a pickle that would run code.
    """
    local = _download(path, key) if urlparse(path).scheme in ('http', 'https') else path
    data = _read(local, key)
    remedy = (
        'Copy or download the file again.'
        if local == path
        else f'Delete its copy {local}, and it is downloaded again.'
    )
    try:
        with runner_checkpoints_allowed():
            content = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := re.search('.*(GLOBAL|may not read).*', str(error)):
            raise ConfigError(
                key,
                f'must hold tensors, but this pickle would run code: {refused[0].strip()}',
                "Save the weights alone: torch.save(model.state_dict(), 'weights.pth').",
                found=path,
            ) from error
        raise ConfigError(
            key, 'must be a file that torch.save wrote', remedy, found=path
        ) from error
    except Exception as error:  # a damaged file can raise anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(key, f'is damaged or truncated: {first}', remedy, found=path) from error
    if not isinstance(content, dict):
        problem = f'must hold a dict, not a {type(content).__name__}'
        raise ConfigError(key, problem, found=path)
    return LoadedFile(content, hashlib.sha256(data).hexdigest())


def load_weights(model: nn.Module, path: str, key: str) -> LoadedWeights:
    """Load a checkpoint strictly into a model.

    Raises:
        ConfigError: As :func:`load_file`, and if a key is missing, unexpected or of another shape.
    """
    loaded = load_file(path, key)
    state = without_prefix(tensors_of(loaded.content, path, key), 'module.')
    load_strictly(model, state, path, key)
    return LoadedWeights(loaded.sha256, class_names_of(loaded.content))


def tensors_of(content: Mapping[str, Any], path: str, key: str) -> Mapping[str, Tensor]:
    """Return the state dict of a checkpoint.

    Raises:
        ConfigError: If there is none, or if it holds anything but tensors.
    """
    state = state_of(content)
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise ConfigError(
            key,
            'must hold a dict of tensors, alone or under "state_dict"',
            f'Its keys are {_few([repr(name) for name in content]) or "none"}.',
            found=path,
        )
    return state


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], path: str, key: str) -> None:
    """Load a state dict into a model that has the same keys and shapes.

    Args:
        model: The model.
        state: The state dict.
        path: Path of its file, for the message.
        key: The config key of the path.

    Raises:
        ConfigError: If a key is missing, unexpected or of another shape. The message counts the
            keys of each kind and shows three.
    """
    misshaped: list[str] = []
    try:  # not strict=True: torch's message then lists every key
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        misshaped = [_SIZES.sub(r'\1: \2 in the file, \3 in the model', line) for line in lines]
        own = model.state_dict().keys()
        missing, unexpected = sorted(own - state.keys()), sorted(state.keys() - own)
    if missing or unexpected or misshaped:
        groups = (missing, 'missing'), (unexpected, 'unexpected'), (misshaped, 'of another shape')
        found = ', '.join(_counted(names, what) for names, what in groups if names)
        problem = f'does not fit the model: {found}'
        raise ConfigError(key, problem, _remedy(unexpected, path), found=path)


def class_names_of(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the class names that a checkpoint of OpenMMLab states, or None.

    They are under ``dataset_meta``, in old checkpoints beside it. Several different lists, as from
    concatenated data sets, are none.

    Example:
        >>> class_names_of(dict(meta=dict(dataset_meta=dict(classes=['cat', 'dog']))))
        ('cat', 'dog')
    """
    meta = content.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    return class_names(meta.get('dataset_meta') or meta)


def _read(path: str, key: str) -> bytes:
    problem = 'must be the path or URL of a checkpoint file'
    try:
        return bytes(fileio.get(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        fix = f'No file is there. Relative paths begin at {Path.cwd()}.'
        raise ConfigError(key, problem, fix, found=path) from error
    except (OSError, ImportError) as error:  # no permission, or no client for that storage
        raise ConfigError(key, f'{problem} that can be read: {error}', found=path) from error


def _download(url: str, key: str) -> str:
    # many files are called epoch_100.pth, so the hash of the URL begins the name
    name = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}-{Path(urlparse(url).path).name}'
    target = Path(torch.hub.get_dir()) / 'checkpoints' / name
    failure = ''
    if dist.get_local_rank() == 0 and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(target), progress=False)
        except OSError as error:  # urllib's errors are OSErrors
            failure = str(error)
    dist.barrier()
    if not target.exists():
        problem = f'could not be downloaded: {failure or "see rank 0"}'
        raise ConfigError(key, problem, 'Give a path or a URL of a checkpoint.', found=url)
    return str(target)


def _remedy(unexpected: list[str], path: str) -> str:
    prefixes = network_prefixes(unexpected)
    if not prefixes:
        return 'Give the checkpoint of this model, or the config of this checkpoint.'
    network = '' if len(prefixes) == 1 else f' --network {next(iter(prefixes))}'
    return (
        'It is the checkpoint of a distillation run. Export its student: '
        f'python tools/export_student.py {shlex.quote(path)} student.pth{network}'
    )


def _counted(names: list[str], what: str) -> str:
    return f'{len(names)} key{"s" if len(names) > 1 else ""} {what} ({_few(names)})'


def _few(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f', … {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
