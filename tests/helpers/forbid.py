"""Calls that a test forbids."""

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch


def forbid(stack: ExitStack, owner: Any, *names: str) -> None:
    """Make every call of these fail until the stack ends; skip names that the owner lacks."""
    for name in names:
        if hasattr(owner, name):
            stack.enter_context(
                patch.object(owner, name, side_effect=AssertionError(f'{name} is not to be called'))
            )
