"""Let ``torch.load(weights_only=True)`` read the checkpoints of MMEngine's Runner for a while."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler


@contextmanager
def runner_checkpoints_allowed() -> Iterator[None]:
    """Allow ``torch.load(weights_only=True)`` to read checkpoints of MMEngine's Runner in the body.

    Since torch 2.6 a Runner of MMEngine 0.10.7 cannot resume from its own checkpoints. Their
    message hub holds ``HistoryBuffer`` and numpy scalars, which torch refuses by default. The types
    allowed here carry numbers only. A ``HistoryBuffer`` also names its own methods through
    ``getattr``, and a one-cycle schedule its curve. A function under the name ``builtins.getattr``
    returns those attributes and refuses all others.

    Afterwards the list of allowed types is the one before. Types that other code removed in the
    body are there again. Types that other code added stay: packages such as ``torch._dynamo`` add
    theirs once, when they are imported. Nested uses work.

    The scripts of this repository enter it around their Runner. A script of another project, such
    as MMDetection's ``tools/train.py``, resumes if it does the same, or if the config has the hook
    ``mmkd_plugin.AllowRunnerCheckpoints``.

    Example:
        >>> from mmengine.runner import Runner
        >>> def resume(cfg):
        ...     with runner_checkpoints_allowed():
        ...         Runner.from_cfg(cfg).train()
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_ALLOWED)
    try:
        yield
    finally:
        added = set(torch.serialization.get_safe_globals()) - set(_ALLOWED)
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*before, *added])


class _Curves:
    """The two curves of a one-cycle schedule, which a checkpoint receives in place of its class."""

    _annealing_cos = staticmethod(OneCycleParamScheduler._annealing_cos)
    _annealing_linear = staticmethod(OneCycleParamScheduler._annealing_linear)


_CURVES = _Curves()


def _getattr(owner: object, name: str) -> object:
    """Return the few attributes that a checkpoint of the Runner names, in place of ``getattr``."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    if owner is _CURVES and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(_CURVES, name)
    raise pickle.UnpicklingError(f'a checkpoint may not read the attribute {name!r} of {owner!r}')


def _named(kind: type) -> tuple[type, str]:
    return kind, f'{kind.__module__}.{kind.__qualname__}'


def _allowed() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
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
    one_cycle: Any = _CURVES
    return [
        _named(HistoryBuffer),
        _named(np.ndarray),
        _named(np.dtype),
        *(_named(type(np.dtype(number))) for number in numbers),
        *((maker, f'{module}.{name}') for name, maker in makers.items() for module in modules),
        (one_cycle, f'{OneCycleParamScheduler.__module__}.{OneCycleParamScheduler.__name__}'),
        (_getattr, 'builtins.getattr'),
    ]


#: All are pairs with a name: the end of an inner ``safe_globals([HistoryBuffer])``, which the
#: onedl-mmengine fork enters in ``load_checkpoint``, removes the bare type and leaves the pair.
_ALLOWED = _allowed()
