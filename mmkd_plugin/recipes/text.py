"""Configs as Python text."""

from collections.abc import Mapping
from typing import Any

from mmkd_plugin.errors import nearest_names

_WIDTH = 100


class Code(str):
    """A text that stands in the config as it is, such as ``_base_.model``."""

    __slots__ = ()


def to_text(value: Any, indent: int = 0, used: int = 0) -> str:
    """Return a value as OpenMMLab's configs write it: ``dict(type='SoftTarget')``.

    Args:
        value: Dicts, lists, tuples, numbers, texts, None and :class:`Code`.
        indent: Columns before the line in which it stands.
        used: Columns that stand before it and after it in its line.

    Example:
        >>> print(to_text(dict(type='Hint', pairs=Code('_base_.pairs'))))
        dict(type='Hint', pairs=_base_.pairs)
    """
    short = _one_line(value)
    if indent + used + len(short) <= _WIDTH or not isinstance(value, (Mapping, list, tuple)):
        return short
    inner = ' ' * (indent + 4)
    if isinstance(value, Mapping):
        named = all(str(key).isidentifier() for key in value)
        opened, closed = ('dict(', ')') if named else ('{', '}')
        heads = [f'{key}=' if named else f'{key!r}: ' for key in value]
        parts = [*zip(heads, value.values(), strict=True)]
    else:
        opened, closed = '[]' if isinstance(value, list) else '()'
        parts = [('', one) for one in value]
    lines = [f'{inner}{head}{to_text(one, indent + 4, len(head) + 1)},' for head, one in parts]
    return '\n'.join([opened, *lines, ' ' * indent + closed])


def new_keys(base: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Say which options add a key to the student's config in place of changing one: slips do too.

    The model is left out. It is another one, and building it shows its slips.

    Example:
        >>> new_keys(dict(train_cfg=dict(max_epochs=3)), {'train_cfg.max_epoch': 5})
        ["cfg.train_cfg.max_epoch is new in the student's config; its neighbours are 'max_epochs'"]
    """
    found = []
    for path in options:
        inside: Any = base
        for part in path.split('.') if path.partition('.')[0] != 'model' else ():
            if not isinstance(inside, Mapping):
                break
            if part not in inside:
                near = nearest_names(part, [*inside], most=3) or 'none'
                found.append(
                    f"cfg.{path} is new in the student's config; its neighbours are {near}"
                )
                break
            inside = inside[part]
    return found


def _one_line(value: Any) -> str:
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, Mapping):
        if all(str(key).isidentifier() for key in value):
            return f'dict({", ".join(f"{key}={_one_line(one)}" for key, one in value.items())})'
        return f'{{{", ".join(f"{key!r}: {_one_line(one)}" for key, one in value.items())}}}'
    if isinstance(value, list):
        return f'[{", ".join(map(_one_line, value))}]'
    if isinstance(value, tuple):
        return f'({", ".join(map(_one_line, value))}{"," if len(value) == 1 else ""})'
    return repr(value)
