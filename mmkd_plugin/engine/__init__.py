"""Parts that the Runner calls: hooks, loops, optimizer constructors, data parallelism, stages."""

from mmkd_plugin.engine.data_parallel import PeerDataParallel
from mmkd_plugin.engine.loops import PeerTestLoop, PeerValLoop
from mmkd_plugin.engine.optim_wrappers import PeerOptimWrappers

__all__ = ['PeerDataParallel', 'PeerOptimWrappers', 'PeerTestLoop', 'PeerValLoop']
