"""Taps: names of tensors inside a network, such as ``backbone.layer4`` or ``neck[0]``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError, nearest_names

_SYNTAX = re.compile(
    r'^(?P<path>[^\[\]#:]+)(?:#(?P<call>\d+))?(?P<input>:input)?(?P<index>(?:\[-?\d+\])*)$'
)
_EXAMPLES = "Taps look like 'backbone.layer4', 'neck[0]' or 'backbone.layer4.1.relu#1:input'."


@dataclass(frozen=True)
class Tap:
    """A parsed tap.

    A tap is a module path. An index chooses one of several tensors: ``neck[0]``, ``backbone[-1]``,
    in a list inside a tuple ``bbox_head[0][2]``. A tuple of one needs no index. ``:input`` names
    the input of a module: ``backbone.layer4.1.relu:input`` is the map before that ReLU. ``#``
    numbers the calls of a module that runs several times in a forward, from 0.

    Args:
        text: The tap as the config has it.
        path: Path of the module.
        call: Number of the call; None for a module that must run once.
        input: Whether the tap names the module's input.
        index: Index into the output, level by level.

    Example:
        >>> Tap.parse('backbone.layer4.1.relu#1:input', 'taps')
        Tap(text='backbone.layer4.1.relu#1:input', path='backbone.layer4.1.relu', call=1, \
input=True, index=())
    """

    text: str
    path: str
    call: int | None = None
    input: bool = False
    index: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: Any, key: str) -> 'Tap':
        """Parse a tap.

        Raises:
            ConfigError: If the text is not a tap; the error is about ``key``.
        """
        match = _SYNTAX.match(text) if isinstance(text, str) else None
        if match is None:
            raise ConfigError(key, 'is not a tap', _EXAMPLES, found=text)
        call = None if match['call'] is None else int(match['call'])
        index = tuple(int(number) for number in re.findall(r'-?\d+', match['index']))
        return cls(text, match['path'], call, match['input'] is not None, index)

    def require_module(self, model: nn.Module, name: str, key: str) -> None:
        """Check that a model has the module.

        Args:
            model: The network.
            name: Its name in the message, such as ``'student'``.
            key: The config key that the error is about.

        Raises:
            ConfigError: If it has not; the remedy lists the nearest paths.
        """
        paths = dict(model.named_modules())
        if self.path not in paths:
            nearest = nearest_names(self.path, [path for path in paths if path])
            raise ConfigError(
                key,
                f'{name} ({type(model).__name__}) has no module of this path',
                f'The nearest paths are {nearest}.',
                found=self.text,
            )

    def pick(self, module: nn.Module, values: Any) -> list[Tensor]:
        """Return the tensor that the tap names, alone in a list.

        Args:
            module: The tapped module.
            values: Its output, or its positional inputs.

        Raises:
            ConfigError: If there is no such tensor, or several without an index. Its key is empty:
                the caller knows the network.
        """
        tensor = _pick(values, self)
        if self.input and getattr(module, 'inplace', False):
            tensor = tensor.clone()  # the module overwrites its input
        return [tensor]

    def put(self, values: Any, tensor: Tensor) -> Any:
        """Return ``values`` with the tapped tensor replaced: the inverse of :meth:`pick`."""
        return _put(values, self.index, tensor)

    def not_reached(self, key: str, calls: int) -> ConfigError:
        """Return the error about a module that a forward did not reach, or not often enough."""
        problem = 'the tapped module does not run in this forward'
        if calls:
            problem = f'the tapped module runs only {calls} times in a forward'
        fix = 'Tap another module; tools/inspect_taps.py lists them.'
        return ConfigError(key, problem, fix, found=self.text)

    def numbered(self) -> str:
        """Return the tap with an explicit first call, as an example for messages."""
        return f'{self.path}#0{self.text.removeprefix(self.path)}'


def _pick(output: Any, tap: Tap) -> Tensor:
    name = tap.text.split('[')[0]
    for depth, number in enumerate(tap.index, start=1):
        if isinstance(output, Tensor) and number in (0, -1) and depth == len(tap.index):
            break  # one tensor where other networks return several
        if not isinstance(output, (tuple, list)):
            raise ConfigError(
                '',
                f'the tapped module returns one {type(output).__name__}',
                'Leave the index out.',
                found=tap.text,
            )
        if not -len(output) <= number < len(output):
            raise _several(output, name, tap)
        name, output = f'{name}[{number}]', output[number]
    while isinstance(output, (tuple, list)):
        if len(output) != 1:
            raise _several(output, name, tap)
        output = output[0]
    if not isinstance(output, Tensor):
        raise ConfigError(
            '',
            f'the tapped module returns no tensor but {type(output).__name__}',
            'Tap another module; tools/inspect_taps.py lists them.',
            found=tap.text,
        )
    return output


def _several(outputs: Sequence[Any], name: str, tap: Tap) -> ConfigError:
    inner = '' if not outputs or isinstance(outputs[0], Tensor) else '[0]'
    last = len(outputs) - 1
    names = f"'{name}[0]{inner}' … '{name}[{last}]{inner}'" if last > 0 else f"'{name}[0]'"
    problem = f'the tapped module returns {len(outputs)} tensor{"s" if last else ""}'
    return ConfigError('', problem, f'Choose one of {names}.', found=tap.text)


def _put(output: Any, index: tuple[int, ...], tensor: Tensor) -> Any:
    if isinstance(output, Tensor):
        return tensor
    items = list(output)
    number, *rest = index or (0,)
    items[number] = _put(items[number], tuple(rest), tensor)
    return type(output)(*items) if hasattr(output, '_fields') else type(output)(items)
