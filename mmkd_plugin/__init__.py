"""Knowledge distillation for OpenMMLab: adaptive teachers, inherit-and-explore, mutual learning.

Importing the package is light and changes nothing outside it. Its modules register themselves when
a registry first looks for one of them, so a config needs no ``custom_imports``:
``type='mmkd_plugin.Distiller'`` is enough.
"""

from typing import Any

from mmkd_plugin.installed import require_hosts
from mmkd_plugin.version import __version__

require_hosts()

__all__ = ['__version__', 'distill']


def __getattr__(name: str) -> Any:
    """Import ``distill`` when it is first used: it imports the frameworks."""
    if name == 'distill':
        from mmkd_plugin.recipes import distill

        return distill
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
