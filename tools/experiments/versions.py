"""The versions that a result may depend on beside its config."""

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from mmkd_plugin.version import __version__

HOSTS = ('mmengine', 'mmcv', 'mmcv-lite', 'mmpretrain', 'mmdet')


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed.

    Example:
        >>> list(installed_versions(['numpy', 'no_such_package']))
        ['numpy']
    """
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def versions() -> dict[str, str]:
    """Return the versions of Python, of the packages of a run, and the commit of this clone."""
    found = {'python': platform.python_version(), 'mmkd_plugin': __version__}
    found |= installed_versions(('torch', 'torchvision', 'numpy', *HOSTS))
    here = str(Path(__file__).parent)
    # Without tags this describes the commit.
    describe = ['git', '-C', here, 'describe', '--always', '--dirty', '--abbrev=12']
    git = subprocess.run(describe, capture_output=True, text=True)
    return found | ({'commit': git.stdout.strip()} if git.returncode == 0 else {})
