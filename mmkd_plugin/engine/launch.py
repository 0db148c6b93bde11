"""What a Runner needs of its process: a process group, without a GPU too, and a state that no earlier Runner shaped."""

import datetime
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer


def join_process_group(cfg: Config, launcher: str) -> bool:
    """Set the launcher in the config and join its process group, once a process.

    MMEngine's own ``init_dist`` picks a CUDA device and wraps the model for it. Without one the group is gloo, made
    here before the Runner looks, and the model is wrapped for the CPU. Networks that learn from each other get their own wrapper.

    Args:
        cfg: The config that the Runner will see; changed in place.
        launcher: ``none``, ``pytorch`` (torchrun), ``slurm`` or ``mpi``.

    Returns:
        Whether this call made the group; whoever made it destroys it.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return False
    mutual = str((cfg.get('model') or {}).get('type')).rpartition('.')[2] == 'MutualDistiller'
    if get_device() == 'cpu' or mutual:
        kind = 'mmkd_plugin.PeerDataParallel' if mutual else 'MMDistributedDataParallel'
        wrapper = {'type': kind, 'broadcast_buffers': False}
        wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
        if get_device() == 'cpu':
            wrapper['device_ids'] = None
        cfg.model_wrapper_cfg = wrapper | dict(cfg.get('model_wrapper_cfg') or {})
    if is_distributed():
        return False
    settings = dict(cfg.get('env_cfg', {}).get('dist_cfg', {}))
    if get_device() == 'cpu' and launcher == 'pytorch':
        seconds = settings.get('timeout')
        torch_dist.init_process_group(
            'gloo', timeout=datetime.timedelta(seconds=seconds) if seconds else None
        )
    else:
        init_dist(launcher, **settings)
    return True


@contextmanager
def own_state() -> Iterator[None]:
    """Take back what a Runner leaves in the process, so that a run is the same whatever ran before it."""
    cudnn, deterministic = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    flags = cudnn.benchmark, cudnn.deterministic
    np.random.seed()  # a run without a seed draws one from here: not from the seed of the run before
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = flags
        torch.use_deterministic_algorithms(deterministic)
        for logger in MMLogger._instance_dict.values():
            for handler in logger.handlers:
                handler.close()
        managers = [DefaultScope, MessageHub, MMLogger, Visualizer]
        for manager in managers:
            manager._instance_dict.clear()
            managers += manager.__subclasses__()  # each host's visualiser keeps a dict of its own
        gc.collect()  # Runner, model and hooks refer to each other: the next run needs their memory
