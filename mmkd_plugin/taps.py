"""Feature taps: the only place that hooks a module."""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_TAP = re.compile(r'^(?P<path>[^\[\]]*)(?:\[(?P<index>-?\d+)\])?$')


class _AllRecordedError(Exception):
    """Leaves a forward whose remaining layers nobody asked for."""


class FeatureTaps:
    """Record the outputs of modules by path, leaving the model unedited.

    A tap is a module path, ``backbone.layer4``, with an index when the module returns several tensors: ``neck[0]``, ``backbone[-1]``.
    A tuple of one needs no index.

    Args:
        model: The network.
        taps: What to record; repeated taps are recorded once.
        key: The config key that named them, for messages.

    Raises:
        ValueError: If a tap names no module of the model; the message lists the nearest paths.
    """

    def __init__(self, model: nn.Module, taps: Sequence[str], key: str = 'taps') -> None:
        self.key = key
        self.taps = tuple(dict.fromkeys(taps))
        self._parsed = {tap: _parse(tap, key) for tap in self.taps}
        known = dict(model.named_modules())
        for tap, (path, _) in self._parsed.items():
            if path not in known:
                nearest = difflib.get_close_matches(path, known, n=5, cutoff=0.0)
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
            ValueError: If a tap was never reached, was called twice, gave no single tensor, or was changed in place after it
                was recorded.
        """
        features: dict[str, Tensor] = {}
        versions: dict[str, int] = {}

        def hook_for(tap: str, index: int | None) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if tap in features:
                    raise ValueError(
                        f'{self.key}: expected {tap!r} to be called once in a forward, it was called again: its module is '
                        'shared between places or scales; tap a module that runs once'
                    )
                features[tap] = _pick(output, tap, index, self.key)
                versions[tap] = features[tap]._version
                if stop_early and len(features) == len(self.taps):
                    raise _AllRecordedError

            return hook

        handles = [
            model.get_submodule(path).register_forward_hook(hook_for(tap, index))
            for tap, (path, index) in self._parsed.items()
        ]
        try:
            yield features
        except _AllRecordedError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for tap in self.taps:
            if tap not in features:
                raise ValueError(f'{self.key}: expected {tap!r} to run in a forward, it was never called')
            if features[tap]._version != versions[tap]:
                raise ValueError(
                    f'{self.key}: expected the output of {tap!r} to stay as it was recorded, it was changed in place by a later '
                    'layer (often ReLU(inplace=True)); tap that later layer'
                )


def _parse(tap: str, key: str) -> tuple[str, int | None]:
    match = _TAP.match(tap) if isinstance(tap, str) else None
    if match is None or not match['path']:
        raise ValueError(f"{key}: expected a tap such as 'backbone.layer4' or 'neck[0]', got {tap!r}")
    return match['path'], None if match['index'] is None else int(match['index'])


def _pick(output: Any, tap: str, index: int | None, key: str) -> Tensor:
    if isinstance(output, (tuple, list)):
        if index is None and len(output) == 1:
            output = output[0]
        elif index is None or not -len(output) <= index < len(output):
            raise ValueError(
                f'{key}: expected one tensor from {tap!r}, got {len(output)}: name one as '
                f'{tap.split("[")[0]}[0] … {tap.split("[")[0]}[{len(output) - 1}]'
            )
        else:
            output = output[index]
    elif index is not None and not (isinstance(output, Tensor) and index in (0, -1)):
        raise ValueError(
            f'{key}: expected several tensors from {tap!r}, got {type(output).__name__}: leave the index out'
        )
    if not isinstance(output, Tensor):
        raise ValueError(f'{key}: expected a tensor from {tap!r}, got {type(output).__name__}')
    return output
