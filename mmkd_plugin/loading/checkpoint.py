"""Read checkpoints without running code, and load them into models."""

import hashlib
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from mmengine import dist, fileio
from torch import nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.class_names import class_names
from mmkd_plugin.loading.foreign import weights_of
from mmkd_plugin.loading.restore import load_completely
from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed

#: First byte of what torch.save writes: of a zip file, or of a pickle; b'' is a truncated file.
_BEGINNINGS = (b'P', b'\x80', b'')


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
    if _is_safetensors(data):
        return LoadedFile(_read_safetensors(data, path, key), hashlib.sha256(data).hexdigest())
    remedy = (
        'Copy or download the file again.'
        if local == path
        else f'Delete its copy {local}, and it is downloaded again.'
    )
    if data[:1] not in _BEGINNINGS:  # the unpickler may fail on it with any words
        raise ConfigError(key, 'must be a file that torch.save wrote', remedy, found=path)
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


def hash_file(path: str, key: str) -> str:
    """Return the SHA-256 of a checkpoint, in hexadecimal digits, without loading it.

    Args:
        path: Path or URL.
        key: The config key of the path, for messages.

    Raises:
        ConfigError: If the file is missing.
    """
    local = _download(path, key) if urlparse(path).scheme in ('http', 'https') else path
    return hashlib.sha256(_read(local, key)).hexdigest()


def load_weights(
    model: nn.Module,
    path: str,
    key: str,
    checkpoint_key: str | None = None,
    checkpoint_prefix: str | None = None,
) -> LoadedWeights:
    """Load a checkpoint completely into a model; see :mod:`mmkd_plugin.loading.restore`.

    Args:
        model: The model.
        path: Path or URL of the checkpoint.
        key: The config key of the path, for messages.
        checkpoint_key: Path of the weights in the file; see
            :func:`~mmkd_plugin.loading.foreign.weights_of`.
        checkpoint_prefix: Prefix of their keys.

    Raises:
        ConfigError: As :func:`load_file`, and if the file does not restore the model.
    """
    loaded = load_file(path, key)
    own = model.state_dict()
    state = weights_of(loaded.content, own, path, key, checkpoint_key, checkpoint_prefix)
    load_completely(model, state, path, key)
    return LoadedWeights(loaded.sha256, class_names_of(loaded.content))


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


def _is_safetensors(data: bytes) -> bool:
    """Return whether a file begins with the length of a JSON header, and with its brace."""
    return data[8:9] == b'{' and 2 <= int.from_bytes(data[:8], 'little') <= len(data) - 8


def _read_safetensors(data: bytes, path: str, key: str) -> dict[str, Any]:
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise ConfigError(
            key,
            'is a file of safetensors, and that package is not installed',
            'Run: pip install safetensors',
            found=path,
        ) from error
    try:
        return dict(load(data))
    except Exception as error:  # the package has an error class for each of its versions
        raise ConfigError(
            key, f'is damaged or truncated: {error}', 'Copy the file again.', found=path
        ) from error


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
