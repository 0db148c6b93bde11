"""Families of the hosts: a folder of stock configs each, and the smallest of them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import get_installed_path

HOSTS = ('mmpretrain', 'mmdet')
#: Folders that hold no models: parts of configs, data sets, schedules.
_NO_MODELS = ('_base_', '__pycache__', 'common', 'dsdl')
#: Words of config names by the size of the network; any other name counts as 5.
_SIZES = {
    'atto': 0, 'femto': 1, 'pico': 1, 'nano': 1, 'xxs': 1, 'xxsmall': 1, 'xs': 2, 'tiny': 2, 't': 2,
    'small': 3, 's': 3, 'b0': 3, 'medium': 6, 'm': 6, 'base': 7, 'b': 7, 'large': 8, 'l': 8,
    'huge': 9, 'h': 9, 'giant': 10, 'x': 9, 'p6': 9,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A folder of stock configs.

    Args:
        host: ``'mmpretrain'`` or ``'mmdet'``.
        name: Name of the folder.
        configs: Paths of its configs below the host's folder, the smallest first.
    """

    host: str
    name: str
    configs: tuple[str, ...]

    @property
    def key(self) -> str:
        """Host and name."""
        return f'{self.host}/{self.name}'


def families(hosts: tuple[str, ...] = HOSTS) -> list[Family]:
    """Return all families of the installed hosts."""
    found = []
    for host in hosts:
        root = installed(host) / 'configs'
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            names = [
                path.relative_to(root).as_posix()
                for path in folder.glob('*.py')
                if not path.name.startswith('_')
            ]
            if folder.name not in _NO_MODELS and names:
                found.append(Family(host, folder.name, tuple(sorted(names, key=size_of))))
    return found


def size_of(name: str) -> tuple[float, int, str]:
    """Return a key that sorts config names by the size of the network, as their words state it.

    Example:
        >>> sorted(['resnet50_8xb16_cifar10.py', 'resnet18_8xb16_cifar10.py'], key=size_of)[0]
        'resnet18_8xb16_cifar10.py'
        >>> sorted(['a/swin-base_1x.py', 'a/swin-tiny_1x.py'], key=size_of)[0]
        'a/swin-tiny_1x.py'
    """
    stem = Path(name).stem.lower()
    words = re.split(r'[-_.]', stem)
    known = [_SIZES[word] for word in words if word in _SIZES]
    depths = [int(n) for n in re.findall(r'(?:^|[-_])(?:r|x|[a-z]*net)(\d{2,3})(?=[-_d]|$)', stem)]
    large_jitter = 'lsj' in words  # it trains on images of 1024 pixels
    size = (min(known) if known else 5) + sum(depths) / 100 + large_jitter
    return size, len(stem), name


def installed(host: str) -> Path:
    """Return the folder to which paths inside the host's configs are relative."""
    return Path(get_installed_path(host)) / '.mim'


def model_of(host: str, config: str) -> Any:
    """Return the model dict of a stock config, without pretrained weights, in its host's scope."""
    cfg = Config.fromfile(installed(host) / 'configs' / config)
    model = cfg.get('model')
    if model is None:
        return None
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor')
    if preprocessor is not None:
        model.data_preprocessor = preprocessor
    if host == 'mmdet' and model.get('data_preprocessor'):
        model.data_preprocessor.pop('batch_augments', None)  # they pad to a full-size image
    _for_a_cpu(model)
    model.setdefault('_scope_', host)
    return model


def _for_a_cpu(config: Any) -> None:
    """Remove the files of weights from a config, in place; SyncBN needs GPUs and becomes BN."""
    if isinstance(config, dict):
        if config.get('type') in ('SyncBN', 'MMSyncBN'):
            config['type'] = 'BN'
        for name in ('init_cfg', 'pretrained', 'load_from', 'teacher_ckpt'):
            value = config.get(name)
            if isinstance(value, str) or (
                isinstance(value, dict) and value.get('type', 'Pretrained') == 'Pretrained'
            ):
                config[name] = None
        for value in config.values():
            _for_a_cpu(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            _for_a_cpu(value)
