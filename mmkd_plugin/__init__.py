"""Knowledge distillation for OpenMMLab: adaptive teachers, inherit-and-explore, mutual learning.

Importing the package is light and changes nothing outside it. Its modules register themselves when
a registry first looks for one of them, so a config needs no ``custom_imports``:
``type='mmkd_plugin.Distiller'`` is enough.
"""

from mmkd_plugin.installed import require_hosts
from mmkd_plugin.version import __version__

require_hosts()

__all__ = ['__version__']
