"""Prepare a process for a Runner: its process group, and a state that no earlier Runner changed."""

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
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from mmkd_plugin.adapters.replayed_teacher import ReplayedTeacher
from mmkd_plugin.loading.run_model import kind_of, unwrap
from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.registry import SCOPE
from mmkd_plugin.replay.refusals import refuse_switches


def join_process_group(cfg: Config, launcher: str) -> bool:
    """Set the launcher in the config, and join its process group once in this process.

    MMEngine's own ``init_dist`` picks a CUDA device and wraps the model for it. Without CUDA this
    function makes a gloo group before the Runner looks for one, and the model is wrapped for the
    CPU. Mutual learning gets its own wrapper.

    Args:
        cfg: The config that the Runner will receive; changed in place.
        launcher: ``none``, ``pytorch`` (torchrun), ``slurm`` or ``mpi``.

    Returns:
        Whether this call made the group. The caller then destroys it.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return False
    mutual = kind_of(cfg.get('model')) == 'mutual'
    if get_device() == 'cpu' or mutual:
        kind = f'{SCOPE}.PeerDataParallel' if mutual else 'MMDistributedDataParallel'
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
        timeout = datetime.timedelta(seconds=seconds) if seconds else None
        torch_dist.init_process_group('gloo', timeout=timeout)
    else:
        init_dist(launcher, **settings)
    return True


def check_hooks(runner: Runner) -> None:
    """Refuse hooks that exchange the transforms of a run whose teachers are replayed.

    Raises:
        ConfigError: With the name of the hook.
    """
    model = unwrap(runner.model)
    teachers = model.teachers if isinstance(model, Distiller) else []
    if any(isinstance(teacher, ReplayedTeacher) for teacher in teachers):
        refuse_switches(runner.hooks)


@contextmanager
def isolated_runner_state() -> Iterator[None]:
    """Undo afterwards what a Runner changes in its process, so that no run depends on another.

    These are cuDNN's flags, torch's deterministic algorithms, and MMEngine's global scopes, message
    hubs, loggers and visualizers. A Runner without a seed draws one from numpy, so numpy gets a
    fresh seed first.
    """
    cudnn, deterministic = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    flags = cudnn.benchmark, cudnn.deterministic
    np.random.seed()
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
            managers += manager.__subclasses__()  # each host's visualizer keeps a dict of its own
        gc.collect()  # Runner, model and hooks refer to each other: the next run needs their memory
