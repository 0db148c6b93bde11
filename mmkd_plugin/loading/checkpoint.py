"""Checkpoints, read without running a pickle's code and checked key by key; and what of them belongs to the student."""

import hashlib
import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine import dist, fileio
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor, nn

STUDENT_PREFIX, PEER_PREFIX = 'student.', 'peer_'


class LoadedFile(NamedTuple):
    """A checkpoint's content and the SHA-256 of the file that it came from."""

    content: dict[str, Any]
    sha256: str


class LoadedWeights(NamedTuple):
    """The SHA-256 of a file whose weights were loaded, and the names of the classes that it was trained on, if it says them."""

    sha256: str
    classes: tuple[str, ...] | None


def allow_runner_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read what MMEngine's Runner itself writes, and nothing beyond.

    Since torch 2.6 the Runner cannot resume from its own checkpoints: their message hub holds ``HistoryBuffer`` and numpy
    scalars. These types carry numbers. A ``HistoryBuffer`` also names its own methods through ``getattr``, and a one-cycle
    schedule its curve; the stand-in that we allow under this name answers for these alone.
    """
    numbers = (
        np.bool_,
        np.int32,
        np.int64,
        np.uint8,
        np.uint32,
        np.float16,
        np.float32,
        np.float64,
    )
    makers: dict[str, Any] = {
        'scalar': np.float64(0).__reduce__()[0],
        '_reconstruct': np.array(0).__reduce__()[0],
    }
    # numpy 2 moved them; a checkpoint of either must load under either
    modules = ('numpy.core.multiarray', 'numpy._core.multiarray')
    named = [(maker, f'{module}.{name}') for name, maker in makers.items() for module in modules]
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            *sorted({type(np.dtype(number)) for number in numbers}, key=str),
            *named,
            # Its name is all a checkpoint needs of this class: nothing that can be called stands behind it.
            (_ONE_CYCLE, f'{OneCycleParamScheduler.__module__}.{OneCycleParamScheduler.__name__}'),
            (_named_function, 'builtins.getattr'),
        ]
    )


_ONE_CYCLE: Any = object()


def _named_function(owner: object, name: str) -> object:
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    if owner is _ONE_CYCLE and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(OneCycleParamScheduler, name)
    raise pickle.UnpicklingError(
        f'a checkpoint may not ask for the attribute {name!r} of {owner!r}'
    )


def load_file(path: str, key: str) -> LoadedFile:
    """Read a checkpoint from a path, a URL or any storage that MMEngine's file clients know.

    Args:
        path: Where it is; ``http(s)://`` is downloaded once into torch hub's cache, by one process.
        key: The config key that named it, for messages.

    Raises:
        ValueError: If the file is missing, damaged, or a pickle that wants to run code.
    """
    local = _download(path, key) if urlparse(path).scheme in ('http', 'https') else path
    data = _read(local, key)
    shown = path if local == path else f'{path} (kept as {local})'
    try:
        content = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := re.search('.*(GLOBAL|may not ask).*', str(error)):
            raise ValueError(
                f'{key}: expected a checkpoint of tensors, got {shown}, a pickle that wants to run code: {refused[0].strip()}'
            ) from error
        raise ValueError(
            f'{key}: expected a checkpoint, got {shown}, which torch.save did not write'
        ) from error
    except Exception as error:  # a damaged file trips the reader anywhere
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f'{key}: expected a checkpoint, got a damaged or truncated file {shown} ({first})'
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f'{key}: expected a checkpoint dict, got {type(content).__name__} in {shown}'
        )
    return LoadedFile(content, hashlib.sha256(data).hexdigest())


def load_weights(model: nn.Module, path: str, key: str) -> LoadedWeights:
    """Load ``path`` into ``model`` strictly.

    Raises:
        ValueError: As :func:`load_file`, and if any key is missing, unexpected or of another shape.
    """
    loaded = load_file(path, key)
    state = loaded.content.get('state_dict', loaded.content)
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise ValueError(
            f'{key}: expected a state dict of tensors, or a dict with one under "state_dict", in {path}'
        )
    versions = getattr(
        state, '_metadata', None
    )  # of its modules: they tell old key names from new ones
    state = OrderedDict((name.removeprefix('module.'), value) for name, value in state.items())
    if versions is not None:
        state._metadata = {  # type: ignore[attr-defined]
            name.removeprefix('module.'): version for name, version in versions.items()
        }
    misshaped: list[str] = []
    try:  # not strict=True: its message lists every key, a student's worth of them on one line
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        misshaped = [line.strip() for line in str(error).splitlines()[1:]]
        own = model.state_dict().keys()
        missing, unexpected = sorted(own - state.keys()), sorted(state.keys() - own)
    if missing or unexpected or misshaped:
        hint = ''
        if any(name.startswith((STUDENT_PREFIX, PEER_PREFIX)) for name in unexpected):
            hint = ' It is the checkpoint of a distillation run: export its student first (tools/export_student.py).'
        raise ValueError(
            f'{key}: expected the weights of this very model, got {path} with {_some("missing", missing)}, '
            f'{_some("unexpected", unexpected)}, {_some("of another shape", misshaped)}.{hint}'
        )
    return LoadedWeights(loaded.sha256, classes_of(loaded.content))


def trained_networks(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Whom a distillation run's checkpoint holds: ``'student'``, or the peers' names, and the prefix of their keys."""
    state = checkpoint.get('state_dict', checkpoint)
    if any(name.startswith(STUDENT_PREFIX) for name in state):
        return {'student': STUDENT_PREFIX}
    heads = dict.fromkeys(name.partition('.')[0] for name in state)
    return {
        head.removeprefix(PEER_PREFIX): f'{head}.' for head in heads if head.startswith(PEER_PREFIX)
    }


def student_checkpoint(checkpoint: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """The student's part of a distillation run's checkpoint, as its own framework writes one: no prefix, no optimizer.

    Args:
        checkpoint: Of the run.
        name: Of the peer, where several learned from each other.

    Raises:
        ValueError: If the checkpoint holds no student, or several and none is named.
    """
    state = checkpoint.get('state_dict', checkpoint)
    found = trained_networks(checkpoint)
    if not found:
        raise ValueError(
            f'checkpoint: expected keys that begin with {STUDENT_PREFIX!r} or {PEER_PREFIX!r}, got {list(state)[:5]} …'
        )
    if name not in found and (name is not None or len(found) > 1):
        raise ValueError(f'--network: expected one of {list(found)}, got {name!r}')
    prefix = found[name or next(iter(found))]
    student = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    meta = checkpoint.get('meta', {})
    kept = ('dataset_meta', 'epoch', 'iter', 'seed', 'time', 'mmengine_version', 'experiment_name')
    return dict(meta={key: meta[key] for key in kept if key in meta}, state_dict=student)


def classes_of(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes that a checkpoint's network was trained on, if it says them.

    As OpenMMLab's checkpoints write them: under ``dataset_meta``, in old ones in capitals.
    """
    meta = content.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    known = meta.get('dataset_meta') or meta
    names = known.get('classes') or known.get('CLASSES')
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else None


def _read(path: str, key: str) -> bytes:
    try:
        return bytes(fileio.get(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(
            f'{key}: expected a checkpoint file or URL, found no file at {path}'
        ) from error
    except (
        OSError,
        ImportError,
    ) as error:  # no permission, or the client of that storage is not installed
        raise ValueError(
            f'{key}: expected a checkpoint file or URL, cannot read {path} ({error})'
        ) from error


def _download(url: str, key: str) -> str:
    # everybody's file is called epoch_100.pth: the whole URL names it
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
        raise ValueError(
            f'{key}: expected a checkpoint at {url}, the download failed: {failure or "see rank 0"}'
        )
    return str(target)


def _some(what: str, names: list[str], most: int = 3) -> str:
    more = f', … {len(names) - most} more' if len(names) > most else ''
    return f'{len(names)} keys {what}' + (f' ({", ".join(names[:most])}{more})' if names else '')
