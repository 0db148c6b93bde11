"""The manifest of a store: all that must be the same, so that its rows can be used."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.installed import has
from mmkd_plugin.replay.checksum import checksum_of
from mmkd_plugin.replay.dataset import ReplayedDataset
from mmkd_plugin.replay.describe import describe
from mmkd_plugin.replay.rows import RowFormat
from mmkd_plugin.replay.sampler import ViewIndex

NAME = 'manifest.json'
#: Version of the layout of rows and files.
VERSION = 1
#: More samples than this are not read for the identity of a data set: each costs 20 µs or more.
_MOST_SAMPLES = 20_000
#: A larger file is no manifest.
_MOST_BYTES = 16 << 20
_PACKAGES = {'numpy': 'numpy', 'opencv': 'cv2', 'Pillow': 'PIL', 'torch': 'torch', 'mmcv': 'mmcv'}
_FIXES = {
    'seed': 'Set the seed of the ReplayedDataset to that of the store, or give another path.',
    'views': 'Set the views of the ReplayedDataset to those of the store, or give another path.',
    'versions': 'Install the version of the store, or give another path.',
    'other_teachers': 'Give another path: this store lacks locations where they teach.',
    'format': 'Request what the store holds, or give another path.',
}


def manifest_of(
    dataset: ReplayedDataset,
    pipeline: Any,
    row: RowFormat,
    teacher_sha256: str,
    teacher_config: Any,
    preprocessor: Any,
    other_teachers: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the manifest of the store of one teacher, as JSON values.

    Args:
        dataset: The data set that is trained on.
        pipeline: Its config, that of the ReplayedDataset or of the data set inside. It is compared
            key by key. The paths of files do not count.
        row: The format of a row.
        teacher_sha256: SHA-256 of the teacher's file.
        teacher_config: Config of the teacher's model.
        preprocessor: Config of the data preprocessor that feeds the teacher.
        other_teachers: SHA-256 of the files of teachers that decide with it which locations of a
            dense head are kept. A store may have been made with more of them.
    """
    return dict(
        version=VERSION,
        seed=dataset.seed,
        views=dataset.views,
        **teacher_entries(teacher_sha256, teacher_config, preprocessor),
        other_teachers=sorted(other_teachers),
        pipeline=normalised(_inside(pipeline)),
        length=len(dataset),
        samples=samples_hash(dataset),
        format=describe(row),
        versions=versions(),
    )


def teacher_entries(sha256: str, config: Any, preprocessor: Any) -> dict[str, Any]:
    """Return the entries of a manifest that are known without the data set.

    Args:
        sha256: SHA-256 of the teacher's file.
        config: Config of the teacher's model.
        preprocessor: Config of the data preprocessor that feeds the teacher.
    """
    return dict(
        teacher=sha256,
        teacher_config=_hash(normalised(config)),
        preprocessor=normalised(preprocessor),
    )


def normalised(config: Any) -> Any:
    """Return a config as JSON values: sorted, tuples as lists, classes by name, without paths.

    Keys that name folders or file clients are left out: they change no image.

    Example:
        >>> normalised(dict(type='Resize', scale=(8, 8), data_root='/data'))
        {'scale': [8, 8], 'type': 'Resize'}
    """
    if isinstance(config, Mapping):
        kept = {str(key): value for key, value in config.items() if str(key) not in _UNIMPORTANT}
        return {key: normalised(kept[key]) for key in sorted(kept)}
    if isinstance(config, (list, tuple)):
        return [normalised(one) for one in config]
    if isinstance(config, (set, frozenset)):
        return sorted((normalised(one) for one in config), key=repr)
    if isinstance(config, (np.ndarray, Tensor)):
        return normalised(config.tolist())
    if isinstance(config, np.generic):
        return config.item()
    if config is None or isinstance(config, (str, int, float, bool)):
        return config
    return f'{getattr(config, "__module__", "")}.{getattr(config, "__qualname__", type(config))}'


_UNIMPORTANT = {
    *('data_root', 'ann_file', 'data_prefix', 'backend_args', 'file_client_args', 'lazy_init'),
    *('serialize_data', 'metainfo', 'checks', 'init_cfg', 'checkpoint', 'load_from'),
}


def samples_hash(dataset: ReplayedDataset) -> str:
    """Return a hash of the identities of the samples.

    An identity is the id of the image, the last two parts of its path, or its pixels where it is in
    memory. If there are more than 20,000 samples, as many are read, evenly spread. A data set
    without ``get_data_info`` is known by 16 drawn images.
    """
    digest = hashlib.sha256()
    length = len(dataset)
    if not hasattr(dataset.dataset, 'get_data_info'):
        for index in _spread(length, 16):
            image = dataset[ViewIndex(index, view=0)]['inputs']
            digest.update(f'{checksum_of(image)};'.encode())
        return digest.hexdigest()
    for index in _spread(length, _MOST_SAMPLES):
        digest.update(_identity(dataset.get_data_info(index)))
    return digest.hexdigest()


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that make images, None for those not installed."""
    found = {}
    for name, module in _PACKAGES.items():
        version = getattr(import_module(module), '__version__', None) if has(module) else None
        found[name] = None if version is None else str(version)
    return found


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of a store; None if there is none.

    Raises:
        ConfigError: If the file is no manifest.
    """
    path = folder / NAME
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f'it has {path.stat().st_size:,} bytes')
        saved = json.loads(path.read_bytes())
        if not isinstance(saved, dict):
            raise ValueError(f'it holds a {type(saved).__name__}')
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            'path',
            f'has no readable {NAME}: {error}',
            'Delete the folder, or give another path.',
            found=str(folder),
        ) from error
    return saved


def require_same_manifest(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare the manifest of a store with that of this run.

    Raises:
        ConfigError: With the first key that differs, both values and the remedy.
    """
    needed = json.loads(json.dumps(wanted))
    kept = saved.get('other_teachers')
    if isinstance(kept, list) and set(needed.get('other_teachers', [])) <= set(map(str, kept)):
        needed['other_teachers'] = kept  # locations that nobody reads do no harm
    difference = _difference('', saved, needed)
    if difference is None:
        return
    key, stored, found = difference
    first = key.partition('.')[0].partition('[')[0]
    raise ConfigError(
        key,
        f'is not that of the store, {_short(stored)}',
        _FIXES.get(first, 'Give another path: the store belongs to another run.'),
        found=_Text(_short(found)),
    )


class _Absent:
    def __repr__(self) -> str:
        return 'nothing'


class _Text(str):
    """A text that is shown without quotes: it is a repr already."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


_ABSENT = _Absent()


def _difference(key: str, stored: Any, found: Any) -> tuple[str, Any, Any] | None:
    if isinstance(stored, dict) and isinstance(found, dict):
        pairs = [
            (f'{key}.{name}'.lstrip('.'), stored.get(name, _ABSENT), found.get(name, _ABSENT))
            for name in {**found, **stored}
        ]
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        pairs = [(f'{key}[{i}]', *pair) for i, pair in enumerate(zip(stored, found, strict=True))]
    else:
        same = stored == found and isinstance(stored, bool) is isinstance(found, bool)
        both_nan = stored != stored and found != found
        return None if same or both_nan else (key, stored, found)
    differences = (_difference(*pair) for pair in pairs)
    return next((one for one in differences if one is not None), None)


def _inside(pipeline: Any) -> Any:
    own = isinstance(pipeline, Mapping) and str(pipeline.get('type')).endswith('ReplayedDataset')
    return pipeline.get('dataset') if own else pipeline


def _identity(info: Any) -> bytes:
    if not isinstance(info, Mapping):
        return f'{type(info).__name__};'.encode()
    parts = [f'{key}={info[key]}' for key in ('img_id', 'sample_id') if key in info]
    path = info.get('img_path')
    if isinstance(path, str):
        parts.append('/'.join(PurePosixPath(path.replace('\\', '/')).parts[-2:]))
    image = info.get('img')
    if isinstance(image, np.ndarray):
        parts.append(hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest())
    return f'{parts};'.encode()


def _spread(length: int, most: int) -> list[int]:
    count = min(length, most)
    return [number * length // count for number in range(count)]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:100]} …'
