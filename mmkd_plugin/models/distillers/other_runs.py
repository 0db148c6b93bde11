"""Why a checkpoint is loaded, and how its run differs from the present one."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from mmengine.logging import MessageHub
from torch import nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.keys import part_of
from mmkd_plugin.loading.restore import few
from mmkd_plugin.loading.run_record import RunRecord, require_same

Purpose = Literal['resume', 'load_from', 'unknown']
_METHODS = 'methods'


def purpose_of_load() -> Purpose:
    """Return why the Runner loads a checkpoint, by its config; unknown without one."""
    text = str(MessageHub.get_current_instance().get_info('cfg') or '')
    if not text.strip():
        return 'unknown'
    return 'resume' if re.search(r'^resume\s*=\s*True\b', text, re.MULTILINE) else 'load_from'


def other_methods(module: nn.Module, local: Mapping[str, Any]) -> ConfigError | None:
    """Return what differs in the parameters of methods, by which the optimizer is resumed."""
    methods = module._modules.get(_METHODS)
    if methods is None:
        return None
    own = [(name, tuple(one.shape)) for name, one in methods.named_parameters()]
    buffers = {name for name, _ in methods.named_buffers()}
    saved = [
        (name, tuple(one.shape))
        for name, one in part_of(local, f'{_METHODS}.').items()
        if name not in buffers
    ]
    # A parameter that two methods share is saved twice.
    known = {name for name, _ in own}
    shared = {name for name, _ in methods.named_parameters(remove_duplicate=False)} - known
    saved = [one for one in saved if one[0] not in shared]
    if saved == own:
        return None
    return ConfigError(
        _METHODS,
        f'are not those of the run: it began with {_shown(saved)}',
        'To resume, put them back. To change them, begin with the student alone: '
        'load_from=CHECKPOINT and resume=False.',
        found=_shown(own),
    )


def other_records(module: nn.Module, local: Mapping[str, Any]) -> dict[str, RunRecord]:
    """Return the records outside the network that differ from those of a checkpoint."""
    records = {
        name: one for name, one in module.named_modules() if isinstance(one, RunRecord) and name
    }
    return {name: one for name, one in records.items() if _record_error(one, local, name)}


def _record_error(record: RunRecord, local: Mapping[str, Any], name: str) -> ConfigError | None:
    try:
        require_same(record, dict(local), f'{name}.')
    except ConfigError as error:
        return error
    return None


def error_of(records: Mapping[str, RunRecord], local: Mapping[str, Any]) -> ConfigError:
    """Return what differs in the first of the records from :func:`other_records`."""
    name, record = next(iter(records.items()))
    error = _record_error(record, local, name)
    assert error is not None, name  # it is among them because it has one
    return error


def _shown(parameters: list[tuple[str, tuple[int, ...]]]) -> str:
    """Write methods with the shapes of their parameters."""
    methods: dict[str, list[str]] = {}
    for name, shape in parameters:
        method, _, rest = name.partition('.')
        methods.setdefault(method, []).append(f'{rest} {list(shape)}')
    shown = [f'{method} ({few(rest)})' for method, rest in methods.items()]
    return '; '.join(shown) or 'no parameters'
