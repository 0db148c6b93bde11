"""Adapter and probe of a network that is not built, because all its outputs are stored."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.probe import TeacherProbe


class StoredAdapter(Adapter):
    """Adapter of a teacher that is not built: it knows the task and whether there are scores."""

    def __init__(self, task: str, scores: bool) -> None:
        self.task = task
        self._scores = scores

    @property
    def scores_known(self) -> bool:
        return self._scores


@dataclass(frozen=True)
class StoredProbe(TeacherProbe):
    """A stored probe; parameters of the network are read from the file."""

    load: Callable[[], nn.Module] = nn.Module

    def norm(self, path: str, key: str) -> tuple[Tensor, Tensor]:
        model = self.load()
        args = self.key, self.output, model, self.sha256, self.checkpoint
        return TeacherProbe(*args, size=self.size).norm(path, key)
