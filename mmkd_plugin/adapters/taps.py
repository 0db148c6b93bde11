"""Feature taps: the only place that hooks a module."""

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_TAP = re.compile(
    r'^(?P<path>[^\[\]#:]+)(?:#(?P<call>\d+))?(?P<input>:input)?(?P<index>(?:\[-?\d+\])*)$'
)


@dataclass(frozen=True)
class _Tap:
    path: str
    call: int | None  # of a module that runs several times in a forward; None: it must run once
    input: bool  # what goes into the module, not what comes out
    index: tuple[int, ...]  # of several tensors, level by level


class _AllRecordedError(Exception):
    """Leaves a forward whose remaining layers nobody asked for."""


class FeatureTaps:
    """Record the outputs of modules by path, leaving the model unedited.

    A tap is a module path, ``backbone.layer4``, with an index when the module returns several tensors: ``neck[0]``, ``backbone[-1]``,
    of lists in a tuple ``bbox_head[0][2]``. A tuple of one needs no index. ``backbone.layer4.1.relu:input`` is what goes into a module,
    here a block's map before its last ReLU; where the module runs several times in a forward, ``#`` counts its calls from 0:
    ``backbone.layer4.1.relu#1:input``.

    Args:
        model: The network.
        taps: What to record; repeated taps are recorded once.
        key: The config key that named them, for messages.
        optional: Those of ``taps`` whose module need not run in every forward.

    Raises:
        ValueError: If a tap names no module of the model; the message lists the nearest paths.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Sequence[str],
        key: str = 'taps',
        optional: Collection[str] = (),
    ) -> None:
        self.key = key
        self.optional = frozenset(optional)
        parsed_taps = [
            _parse(tap, key) for tap in taps
        ]  # first of all: what is no tap may not be hashable
        self._parsed = dict(zip(taps, parsed_taps, strict=True))
        self.taps = tuple(self._parsed)
        known = dict(model.named_modules())
        for tap, parsed in self._parsed.items():
            if parsed.path not in known:
                nearest = difflib.get_close_matches(parsed.path, known, n=5, cutoff=0.0)
                raise ValueError(
                    f'{key}: expected the path of a module of {type(model).__name__}, got {tap!r}; '
                    f'the nearest are {", ".join(repr(name) for name in nearest)}'
                )

    @contextmanager
    def record(self, model: nn.Module, stop_early: bool = False) -> Iterator[dict[str, Tensor]]:
        """Fill the dict that it gives while the model runs inside the ``with``; remove every hook on exit.

        Args:
            model: The model of the constructor, or its copy or replica with the same paths.
            stop_early: Leave the ``with`` body as soon as every tap has been recorded: what lies deeper does not run.

        Raises:
            ValueError: If a tap that is not optional was never reached, or one was called twice, gave no single tensor, or was
                changed in place after it was recorded.
        """
        features: dict[str, Tensor] = {}
        versions: dict[str, int] = {}
        calls = dict.fromkeys(self.taps, 0)

        def take(tap: str, module: nn.Module, values: Any) -> None:
            wanted, calls[tap] = self._parsed[tap].call, calls[tap] + 1
            if wanted is None and tap in features:
                raise ValueError(
                    f'{self.key}: expected {tap!r} to be called once in a forward, it was called again: its module is '
                    f'shared between places or scales; say which call, {_numbered(tap)}, or tap a module that runs once'
                )
            if wanted is not None and wanted != calls[tap] - 1:
                return
            feature = _pick(values, tap, self._parsed[tap].index, self.key)
            if self._parsed[tap].input and getattr(module, 'inplace', False):
                feature = feature.clone()  # what goes in is overwritten by what comes out
            features[tap] = feature
            versions[tap] = feature._version
            if stop_early and len(features) == len(self.taps):
                raise _AllRecordedError

        handles = [self._hook(model, tap, take) for tap in self.taps]
        try:
            yield features
        except _AllRecordedError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for tap in self.taps:
            if tap not in features and tap in self.optional:
                continue
            if tap not in features:
                raise ValueError(
                    f'{self.key}: expected {tap!r} to run in a forward, it was {_often(calls[tap])}'
                )
            if features[tap]._version != versions[tap]:
                raise ValueError(
                    f'{self.key}: expected the output of {tap!r} to stay as it was recorded, it was changed in place by a later '
                    'layer (often ReLU(inplace=True)); tap that later layer'
                )

    def _hook(
        self, model: nn.Module, tap: str, take: Callable[[str, nn.Module, Any], Any]
    ) -> RemovableHandle:
        module = model.get_submodule(self._parsed[tap].path)
        if self._parsed[tap].input:
            return module.register_forward_pre_hook(lambda module, args: take(tap, module, args))
        return module.register_forward_hook(lambda module, args, output: take(tap, module, output))


def _parse(tap: str, key: str) -> _Tap:
    match = _TAP.match(tap) if isinstance(tap, str) else None
    if match is None:
        raise ValueError(
            f"{key}: expected a tap such as 'backbone.layer4', 'neck[0]' or 'backbone.layer4.1.relu#1:input', got {tap!r}"
        )
    index = tuple(int(number) for number in re.findall(r'-?\d+', match['index']))
    return _Tap(
        match['path'],
        None if match['call'] is None else int(match['call']),
        match['input'] is not None,
        index,
    )


def _numbered(tap: str) -> str:
    path = re.split(r'[:\[]', tap)[0]
    return repr(f'{path}#0{tap.removeprefix(path)}')


def _pick(output: Any, tap: str, index: tuple[int, ...], key: str) -> Tensor:
    name = tap.split('[')[0]
    for depth, number in enumerate(index, start=1):
        if isinstance(output, Tensor) and number in (0, -1) and depth == len(index):
            break  # one tensor where others give several
        if not isinstance(output, (tuple, list)):
            raise ValueError(
                f'{key}: expected several tensors from {tap!r}, got {type(output).__name__}: leave the index out'
            )
        if not -len(output) <= number < len(output):
            raise ValueError(_one_of(output, name, tap, key))
        name, output = f'{name}[{number}]', output[number]
    while isinstance(output, (tuple, list)):
        if len(output) != 1:
            raise ValueError(_one_of(output, name, tap, key))
        output = output[0]
    if not isinstance(output, Tensor):
        raise ValueError(f'{key}: expected a tensor from {tap!r}, got {type(output).__name__}')
    return output


def _one_of(outputs: Sequence[Any], name: str, tap: str, key: str) -> str:
    inner = '' if not outputs or isinstance(outputs[0], Tensor) else '[0]'
    return (
        f'{key}: expected one tensor from {tap!r}, got {len(outputs)}: name one as {name}[0]{inner} … '
        f'{name}[{len(outputs) - 1}]{inner}'
    )


@contextmanager
def replaced(
    model: nn.Module, tap: str, function: Callable[[Tensor], Tensor], key: str = 'tap'
) -> Iterator[None]:
    """Let the layers behind a tap read ``function(feature)`` in its place while the model runs inside the ``with``.

    A module that runs several times is changed in all its calls, unless the tap says which.

    Raises:
        ValueError: If the tap names no module, gives no single tensor, or was never reached.
    """
    taps = FeatureTaps(model, [tap], key)
    wanted = taps._parsed[tap]
    calls, changed = 0, False

    def exchange(tap: str, module: nn.Module, values: Any) -> Any:
        nonlocal calls, changed
        calls += 1
        if wanted.call not in (None, calls - 1):
            return None
        changed = True
        return _put(values, wanted.index, function(_pick(values, tap, wanted.index, key)))

    handle = taps._hook(model, tap, exchange)
    try:
        yield
    finally:
        handle.remove()
    if not changed:
        raise ValueError(f'{key}: expected {tap!r} to run in a forward, it was {_often(calls)}')


def _put(output: Any, index: tuple[int, ...], feature: Tensor) -> Any:
    """The inverse of :func:`_pick`."""
    if isinstance(output, Tensor):
        return feature
    items = list(output)
    place, *rest = index or (0,)
    items[place] = _put(items[place], tuple(rest), feature)
    return type(output)(*items) if hasattr(output, '_fields') else type(output)(items)


def _often(calls: int) -> str:
    return f'only called {calls} times' if calls else 'never called'
