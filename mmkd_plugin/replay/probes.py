"""Probes of teachers, stored so that the network need not be built again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmkd_plugin.boxes import BoxOutputs
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import ClassScores, NetworkOutput
from mmkd_plugin.replay import files

NAME = 'probes.json'


class StoredProbes:
    """Shapes of a teacher's outputs for blank images, by size, with its task and class names.

    Args:
        folder: Folder of the store.

    Raises:
        ConfigError: If the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._noted: dict[str, Any] = {}
        try:
            saved = json.loads(self.path.read_bytes()) if self.path.exists() else {}
            self._sizes: dict[str, Any] = dict(saved.get('sizes', {}))
            self.task = str(saved.get('task', ''))
            classes = saved.get('classes')
            self.classes = None if classes is None else tuple(map(str, classes))
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ConfigError(
                'path',
                f'has no readable {NAME}: {error}',
                'Delete this file; the next run writes it.',
                found=str(folder),
            ) from error

    def known(self, boxes: bool) -> bool:
        """Whether any probe is stored, with boxes if they are needed."""
        return any(self._is_there(name, boxes) for name in self._sizes)

    def has(self, size: tuple[int, int], boxes: bool) -> bool:
        """Whether the probe of images of this (height, width) is stored, with boxes if needed."""
        return self._is_there(_name(size), boxes)

    def _is_there(self, name: str, boxes: bool) -> bool:
        found = self._sizes.get(name)
        return found is not None and (
            not boxes or (isinstance(found, dict) and found.get('boxes') is not None)
        )

    def note(
        self,
        size: tuple[int, int],
        output: NetworkOutput,
        task: str,
        classes: Sequence[str] | None,
    ) -> None:
        """Remember the outputs of a probe; :meth:`write` saves them."""
        self.task, self.classes = task, None if classes is None else tuple(classes)
        scores, boxes = output.scores, output.boxes
        self._sizes[_name(size)] = dict(
            boxes=None
            if boxes is None
            else dict(
                shape=list(boxes.values.shape[1:]),
                kind=boxes.kind,
                coding=boxes.coding,
                priors=[list(one) for one in boxes.priors],
            ),
            features={tap: list(value.shape[1:]) for tap, value in output.features.items()},
            scores=None
            if scores is None
            else dict(
                shape=list(scores.logits.shape[1:]),
                activation=scores.activation,
                background=scores.background,
                levels=[list(level) for level in scores.levels],
                strides=[list(stride) for stride in scores.strides],
            ),
        )

    def write(self) -> None:
        """Save the probes beside those that other runs have saved."""
        with files.locked(self.path.parent):
            others = StoredProbes(self.path.parent)._sizes
            classes = None if self.classes is None else list(self.classes)
            files.write_json(
                self.path, dict(task=self.task, classes=classes, sizes={**others, **self._sizes})
            )

    def output(self, size: tuple[int, int], images: int) -> NetworkOutput:
        """Return outputs of zeros in the stored shapes.

        Raises:
            ConfigError: If the entry is damaged.
        """
        try:
            saved = self._sizes[_name(size)]
            features = {
                str(tap): torch.zeros(images, *map(int, shape))
                for tap, shape in saved['features'].items()
            }
            found = saved['scores']
            scores = None
            if found is not None:
                scores = ClassScores(
                    torch.zeros(images, *map(int, found['shape'])),
                    str(found['activation']),
                    bool(found['background']),
                    tuple((int(a), int(b), int(c)) for a, b, c in found['levels']),
                    strides=tuple((float(a), float(b)) for a, b in found['strides']),
                )
            kept, boxes = saved.get('boxes'), None  # older files have no boxes
            if kept is not None and scores is not None:
                boxes = BoxOutputs(
                    torch.zeros(images, *map(int, kept['shape'])),
                    str(kept['kind']),
                    str(kept['coding']),
                    tuple(tuple(map(float, one)) for one in kept['priors']),
                    scores.levels,
                )
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ConfigError(
                'path',
                f'has a damaged {NAME}: {error}',
                'Delete this file; the next run writes it.',
                found=str(self.path),
            ) from error
        return NetworkOutput(scores, features, boxes)


def _name(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'
