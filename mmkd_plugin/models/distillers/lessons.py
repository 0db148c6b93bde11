"""What one peer learns from the others."""

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from mmkd_plugin.errors import config_key
from mmkd_plugin.models.methods import Method
from mmkd_plugin.outputs import Knowledge


class Lessons(nn.Module):
    """One peer's own instance of every method; the other peers, in order, are its teachers.

    Args:
        methods: By name.
    """

    def __init__(self, methods: nn.ModuleDict) -> None:
        super().__init__()
        self.methods = methods

    def by_name(self) -> dict[str, Method]:
        """The methods."""
        return {name: cast(Method, method) for name, method in self.methods.items()}

    def forward(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        """The losses and facts of all methods as ``<method>.<name>``."""
        losses: dict[str, Tensor] = {}
        for name, method in self.by_name().items():
            with config_key(f'methods.{name}'):
                parts = method(student, teachers, labels)
            losses.update({f'{name}.{part}': value for part, value in parts.items()})
        return losses


class Apart(nn.Module):
    """The connectors of one peer's methods that learn from the others' knowledge alone; see :attr:`Method.apart`.

    Args:
        connectors: By the name of the method.
    """

    def __init__(self, connectors: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.connectors = nn.ModuleDict(connectors)

    def forward(self, teachers: Sequence[Knowledge]) -> dict[str, Tensor]:
        """Their losses and facts as ``<method>.<name>``."""
        losses: dict[str, Tensor] = {}
        for name, connector in self.connectors.items():
            losses.update({f'{name}.{part}': value for part, value in connector(teachers).items()})
        return losses
