"""Locations that the stores of several dense detectors keep together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.boxes import Levels
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import ClassScores, NetworkOutput
from mmkd_plugin.replay.dense import ABSENT


class SharedLocations:
    """Decide which locations the stores of a run keep of an image: those where any teacher teaches.

    A mixture of several teachers needs the scores of all of them where one of them is confident. So
    a teacher's row depends on the others, and the manifest of its store names them.

    Args:
        teachers: All teachers of the run whose class scores are read, in order.
        background: Probability from which a location is kept.
    """

    def __init__(self, teachers: Sequence[Teacher], background: float) -> None:
        self.teachers = list(teachers)
        self.background = background
        self._inputs: dict[Teacher, Any] = {}
        self._samples: Any = None
        self._outputs: dict[Teacher, NetworkOutput] = {}
        self._priority: Tensor | None = None

    def others(self, teacher: Teacher) -> list[str]:
        """Return the SHA-256 of the other teachers' files, sorted."""
        return sorted(str(one.sha256) for one in self.teachers if one is not teacher)

    @contextmanager
    def batch(
        self, teachers: Sequence[Teacher], inputs: Sequence[Any], data_samples: Any
    ) -> Iterator[None]:
        """Serve one batch in a ``with`` statement; outputs are computed when they are first used.

        Args:
            teachers: All teachers of the run.
            inputs: The batch under the preprocessing of each.
            data_samples: Those of a ReplayedDataset.
        """
        self._inputs = dict(zip(teachers, inputs, strict=True))
        self._samples = data_samples
        try:
            yield
        finally:
            self._inputs, self._samples, self._outputs, self._priority = {}, None, {}, None

    def output(self, teacher: Teacher) -> NetworkOutput:
        """Return the outputs of a teacher in its own classes, computed once a batch."""
        if teacher not in self._outputs:
            inputs = self._inputs[teacher]
            self._outputs[teacher] = teacher.own_output(inputs, self._samples, self._levels())
        return self._outputs[teacher]

    def _levels(self) -> Levels | None:
        """Return the levels of this batch, once a network has computed them."""
        known = (one.scores for teacher, one in self._outputs.items() if not teacher.stored)
        return next((scores.levels for scores in known if scores is not None), None)

    def priority(self) -> Tensor:
        """Return the largest probability of a class at each location, over all teachers, (N, A).

        Raises:
            ConfigError: If the teachers have other locations.
        """
        if self._priority is not None:
            return self._priority
        found: list[Tensor] = []
        for teacher in sorted(self.teachers, key=lambda one: one.stored):  # networks come first
            scores = self.output(teacher).scores
            assert scores is not None
            found.append(self._of_one(scores, teacher.stored))
            if found[-1].shape != found[0].shape:
                raise ConfigError(
                    f'{teacher.key}.replay',
                    f'has {found[-1].shape[1]} locations in a batch where '
                    f'{self.teachers[0].key} has {found[0].shape[1]}',
                    'Give all teachers the padding of the run, or leave replay out.',
                )
        every = [one.to(found[0].device) for one in found]
        self._priority = torch.stack(every).amax(dim=0)
        return self._priority

    def _of_one(self, scores: ClassScores, stored: bool) -> Tensor:
        confidence = scores.confidence()
        if not stored:
            return confidence
        # A stored row has the locations of all teachers. Rounding may leave one below the bound.
        classes = scores.logits[..., :-1] if scores.background else scores.logits
        kept = (classes != ABSENT).any(dim=2)
        return torch.where(kept, confidence.clamp_min(self.background), confidence)
