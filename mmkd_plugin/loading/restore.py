"""Load a state dict as its framework does, and measure what was restored."""

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.keys import network_prefixes
from mmkd_plugin.loading.unexpected import RUNNING_STATISTICS, show_another_model

_SIZES = re.compile(
    r'size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, '
    r'the shape in current model is torch\.Size\((.*?)\)\.'
)
#: MMEngine ignores these as well.
_IGNORED = 'num_batches_tracked'


class _Load(NamedTuple):
    """The words of a framework about one load."""

    missing: list[str]
    unexpected: list[str]
    errors: list[str]


def load_completely(model: nn.Module, state: Mapping[str, Tensor], path: str, key: str) -> None:
    """Load a state dict with all hooks of the model, and refuse it unless it restores the model.

    The rule is about tensors, not about names of keys:

    - Each parameter and each running statistic of a normalisation layer must be written, under
      whatever name. They hold NaN before the load, so a hook cannot hide one that is missing.
    - Other buffers are built from the config. They may be absent; one line in the log names them.
    - Unexpected tensors must not show another structure; see
      :func:`~mmkd_plugin.loading.unexpected.show_another_model`. The others are left out with one
      warning that names them.

    Args:
        model: The model. After an error its parameters are NaN.
        state: The state dict.
        path: Path of its file, for messages.
        key: The config key of the path.

    Raises:
        ConfigError: If the model is not restored. The message counts the keys of each kind and
            shows three.
    """
    required = _mark(model)
    optional = {name: (tensor, tensor._version) for name, tensor in _other_buffers(model)}
    load = _load(model, state)
    blank = [name for name in required if _is_blank(model, name)]
    misshaped = [_SIZES.sub(r'\1: \2 in the file, \3 in the model', line) for line in load.errors]
    named = {match[1] for match in map(_SIZES.match, load.errors) if match}
    spoilt = [name for name, value in state.items() if _has_nan(value)] if blank else []
    missing = [name for name in blank if name not in named and name not in spoilt]
    other = show_another_model(model, load.unexpected)
    if missing or misshaped or spoilt or other:
        groups = (
            (missing, 'missing'),
            (load.unexpected, 'unexpected'),
            (misshaped, 'of another shape'),
            (spoilt, 'with NaN'),
        )
        found = ', '.join(_counted(names, what) for names, what in groups if names)
        hidden = bool(missing) and not set(missing) & set(load.missing)
        raise ConfigError(
            key, f'does not fit the model: {found}', _remedy(load, hidden, path), found=path
        )
    _log(model, load, optional, path)


def few(names: Iterable[str], most: int = 3) -> str:
    """List the first names, and the number of the others.

    Example:
        >>> few(['a', 'b', 'c', 'd'], most=2)
        'a, b, … 2 more'
    """
    names = list(names)
    more = f', … {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


@torch.no_grad()
def _mark(model: nn.Module) -> list[str]:
    """Fill what must be restored with NaN, and return the names."""
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {
        name: buffer
        for name, buffer in model.named_buffers()
        if name.rpartition('.')[2] in RUNNING_STATISTICS
    }
    for tensor in tensors.values():
        if not is_lazy(tensor) and (tensor.is_floating_point() or tensor.is_complex()):
            tensor.fill_(torch.nan)
    return list(tensors)


def _is_blank(model: nn.Module, name: str) -> bool:
    path, _, leaf = name.rpartition('.')
    tensor: Any = getattr(model.get_submodule(path), leaf, None)
    return tensor is not None and (is_lazy(tensor) or _has_nan(tensor))


def _has_nan(tensor: Tensor) -> bool:
    return (tensor.is_floating_point() or tensor.is_complex()) and bool(tensor.isnan().any())


def _other_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the buffers of checkpoints that the config builds as well."""
    return [
        (f'{path}.{name}'.lstrip('.'), buffer)
        for path, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
        and name not in module._non_persistent_buffers_set
        and name not in (*RUNNING_STATISTICS, _IGNORED)
    ]


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> _Load:
    missing: list[str] = []
    unexpected: list[str] = []

    def remember(_: nn.Module, keys: Any) -> None:  # torch's error leaves these lists out
        missing.extend(keys.missing_keys)
        unexpected.extend(key for key in keys.unexpected_keys if _IGNORED not in key)

    handle = model.register_load_state_dict_post_hook(remember)
    errors: list[str] = []
    try:  # not strict=True: torch's message then lists every key
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        errors = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
    except (LookupError, TypeError, ValueError, AssertionError, AttributeError) as error:
        errors = [f'{type(error).__name__}: {error}']  # a hook of the model met another file
    finally:
        handle.remove()
    return _Load(missing, unexpected, errors)


def _log(
    model: nn.Module, load: _Load, optional: Mapping[str, tuple[Tensor, int]], path: str
) -> None:
    now = dict(_other_buffers(model))
    kept = [
        name
        for name, (tensor, version) in optional.items()
        if now.get(name) is tensor and tensor._version == version
    ]
    if kept:
        print_log(
            f'{path}: {_counted(kept, "of buffers")} not in the file; the config built them',
            logger='current',
        )
    if load.unexpected:
        print_log(
            f'{path}: {_counted(load.unexpected, "left out")}: the model has no such part',
            logger='current',
            level=30,
        )


def _remedy(load: _Load, hidden: bool, path: str) -> str:
    if prefixes := network_prefixes(load.unexpected):
        network = '' if len(prefixes) == 1 else f' --network {next(iter(prefixes))}'
        return (
            'It is the checkpoint of a distillation run. Export its student: '
            f'python tools/export_student.py {shlex.quote(path)} student.pth{network}'
        )
    if hidden:
        return (
            'The model writes a part of its parameters to files, as LoRA does, and would keep '
            'random values for the others. Give a file with all parameters.'
        )
    return 'Give the checkpoint of this model, or the config of this checkpoint.'


def _counted(names: list[str], what: str) -> str:
    return f'{len(names)} key{"s" if len(names) > 1 else ""} {what} ({few(names)})'
