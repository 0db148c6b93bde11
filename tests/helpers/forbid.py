"""What must not be called."""

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch


def forbid(stack: ExitStack, owner: Any, *names: str) -> None:
    """Until the stack ends, it is an error to call any of these; what the owner does not have is not asked for."""
    for name in names:
        if hasattr(owner, name):
            stack.enter_context(
                patch.object(owner, name, side_effect=AssertionError(f'{name} is not to be called'))
            )
