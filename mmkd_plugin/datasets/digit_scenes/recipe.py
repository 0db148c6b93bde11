"""Everything that determines a set of scenes, and its hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmkd_plugin.datasets.digit_scenes import scene, stamp
from mmkd_plugin.datasets.splits import SPLITS
from mmkd_plugin.errors import ConfigError

COUNTS = dict(train=4000, val=400, test=400)
SMALLEST = 64  # side of a picture in pixels: six digits hardly fit into less
# The names are keys of the manifest, and part of the hash.
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
    """The number and size of the scenes and their seed.

    The rest of the recipe are the constants of ``scene.py``. Scene i of a split is the same
    whatever the numbers, so fewer scenes are the first of more.

    Args:
        scenes: Number of scenes by split; a split that is left out has its number in ``COUNTS``.
        image_size: Side of the pictures in pixels. The digits keep their size.
        seed: Seed of all random draws.

    Raises:
        ConfigError: If a split is unknown, a number of scenes below 1, ``image_size`` below 64, or
            ``seed`` below 0.

    Example:
        >>> SceneRecipe(dict(train=100), seed=1).scenes
        {'train': 100, 'val': 400, 'test': 400}
    """

    scenes: Mapping[str, int] = field(default_factory=dict)
    image_size: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.scenes, Mapping) or not set(self.scenes) <= set(SPLITS):
            raise ConfigError(
                'DigitScenes.scenes',
                f'must give numbers for some of {SPLITS}',
                'For example dict(train=1000, val=100, test=100).',
                found=self.scenes,
            )
        for split, count in self.scenes.items():
            _require_integer(f'scenes.{split}', count, 1)
        _require_integer('image_size', self.image_size, SMALLEST)
        _require_integer('seed', self.seed, 0)
        object.__setattr__(
            self, 'scenes', {split: self.scenes.get(split, COUNTS[split]) for split in SPLITS}
        )

    def facts(self) -> dict[str, Any]:
        """Return everything that determines the scenes, as JSON can hold it."""
        constants = {name.lower(): getattr(scene, name) for name in _OF_SCENES}
        options = dict(scenes=dict(self.scenes), image_size=self.image_size, seed=self.seed)
        return json.loads(json.dumps({**options, **constants, 'ink': stamp.INK}))

    @property
    def sha256(self) -> str:
        """The hash of :meth:`facts`, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()


def _require_integer(key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f'DigitScenes.{key}', f'must be an integer >= {least}', found=value)
