"""Check that the required packages are installed: one line for each that is missing."""

import sys
from importlib import metadata
from importlib.util import find_spec

#: Older versions of torch.load run code of a checkpoint, or cannot be given further allowed types.
OLDEST_TORCH = (2, 6)
TORCH = "`pip install 'torch>=2.6' torchvision`"
MMENGINE = "`pip install 'mmengine>=0.10.7' 'setuptools<81'`"
MMCV = (
    "`pip install 'mmcv-lite>=2.0,<2.2'` is enough for mmpretrain; mmdet needs the compiled one: "
    "`pip install 'setuptools<81' wheel ninja psutil && "
    "MMCV_WITH_OPS=1 pip install --no-build-isolation 'mmcv>=2.0,<2.2'`"
)
MMPRETRAIN = "`pip install 'mmpretrain>=1.2'`"
MMDET = "`pip install 'mmdet>=3.3'`"
CLONE = (
    'In a clone of mmkd_plugin, all but mmcv comes with '
    "`pip install -c constraints.txt -e '.[classification]'` or "
    "`pip install -c constraints.txt -e '.[detection]'`"
)


def has(name: str) -> bool:
    """Return whether the top-level package ``name`` can be imported, without importing it.

    Example:
        >>> has('torch'), has('no_such_package')
        (True, False)
    """
    return find_spec(name) is not None


def require_hosts() -> None:
    """Check for torch, MMEngine, mmcv or mmcv-lite, and at least one of MMPretrain and MMDet.

    Forks under the same import names count as well.

    Raises:
        ImportError: If one is missing or torch is too old. One line for each, with the command that
            installs it, and a last line for those who have a clone.
    """
    lines = [
        f'mmkd_plugin needs {name}, which is not installed. Run: {command}'
        for name, command in (('torch', TORCH), ('mmengine', MMENGINE), ('mmcv', MMCV))
        if not has(name)
    ]
    if not has('mmpretrain') and not has('mmdet'):
        lines.append(
            'mmkd_plugin needs mmpretrain or mmdet; neither is installed. '
            f'Run: {MMPRETRAIN} for classifiers or {MMDET} for detectors'
        )
    if has('torch') and (found := _torch_version()) < OLDEST_TORCH:
        oldest = '.'.join(map(str, OLDEST_TORCH))
        shown = '.'.join(map(str, found))
        lines.append(f'mmkd_plugin needs torch {oldest} or newer (found {shown}). Run: {TORCH}')
    if lines:
        raise ImportError('\n'.join([*lines, CLONE]))


def _torch_version() -> tuple[int, int]:
    """Return the version; an import of torch takes seconds, and `--help` needs none."""
    imported = sys.modules.get('torch')
    try:
        found = metadata.version('torch') if imported is None else imported.__version__
    except metadata.PackageNotFoundError:  # built in place
        from torch import __version__ as found
    major, minor = found.split('.')[:2]
    return int(major), int(minor)
