"""The flags ``--set`` and ``--cfg-options``: KEY=VALUE words."""

import ast
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction


class Settings(DictAction):
    """Read KEY=VALUE words as OpenMMLab's tools do, and lists and dicts as Python writes them.

    Example:
        >>> parser = ArgumentParser()
        >>> _ = parser.add_argument('--set', nargs='+', action=Settings, default={})
        >>> parser.parse_args(['--set', 'a=1,2', 'b=x', "c=[{'d': 1.5}]"]).set
        {'a': [1, 2], 'b': 'x', 'c': [{'d': 1.5}]}
    """

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the words to the namespace; a word without ``=`` is an error of the parser."""
        found = dict(getattr(namespace, self.dest, None) or {})
        for word in values or ():
            key, separator, value = str(word).partition('=')
            if not separator or not key:
                parser.error(f'argument {option_string}: must be KEY=VALUE (found {word!r})')
            found[key] = _literal(value)
        setattr(namespace, self.dest, found)


def _literal(text: str) -> Any:
    if text.startswith(('[', '{', '(')):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):  # words without quotes, as in [a,b]
            pass
    return DictAction._parse_iterable(text)
