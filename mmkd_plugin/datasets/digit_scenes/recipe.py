"""All that decides what a set of scenes looks like, and a name for it: a hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmkd_plugin.datasets.digit_scenes import scene, stamp
from mmkd_plugin.datasets.splits import SPLITS

COUNTS = dict(train=4000, val=400, test=400)
SMALLEST = 64  # side of a picture: in less, six digits hardly find room
_OF_SCENES = (
    'VERSION',
    'DIGITS',
    'SIZE',
    'TURN',
    'OVERLAP',
    'SEEN',
    'CLUTTER',
    'PATCH',
    'CLUTTER_SIZE',
    'DARK',
    'SHADES',
    'LIGHT',
    'CONTRAST',
    'LIGHTNESS',
    'NOISE',
    'PLACES',
)


@dataclass(frozen=True)
class SceneRecipe:
    """How many scenes of which size, from which chance; the rest of the recipe are the constants of ``scene.py``.

    Args:
        scenes: Number of scenes by split; a split that is left out has its number in ``COUNTS``. Scene i of a split is the
            same whatever the numbers, so that fewer scenes are the first of more.
        image_size: Side of the pictures in pixels; the digits keep their size.
        seed: Of all chance.

    Raises:
        ValueError: If a split is unknown, a number of scenes below 1, ``image_size`` below 64, or ``seed`` below 0.
    """

    scenes: Mapping[str, int] = field(default_factory=dict)
    image_size: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.scenes, Mapping) or not set(self.scenes) <= set(SPLITS):
            raise ValueError(
                f'DigitScenes.scenes: expected numbers for some of {SPLITS}, got {self.scenes!r}'
            )
        for split, count in self.scenes.items():
            _whole(f'scenes.{split}', count, 1)
        _whole('image_size', self.image_size, SMALLEST)
        _whole('seed', self.seed, 0)
        object.__setattr__(
            self, 'scenes', {split: self.scenes.get(split, COUNTS[split]) for split in SPLITS}
        )

    def facts(self) -> dict[str, Any]:
        """Everything that decides, as JSON knows it."""
        constants = {name.lower(): getattr(scene, name) for name in _OF_SCENES}
        options = dict(scenes=dict(self.scenes), image_size=self.image_size, seed=self.seed)
        return json.loads(json.dumps({**options, **constants, 'ink': stamp.INK}))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()


def _whole(key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f'DigitScenes.{key}: expected a whole number >= {least}, got {value!r}')
