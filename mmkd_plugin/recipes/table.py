"""The methods that a short name stands for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmkd_plugin.errors import ConfigError, nearest_names
from mmkd_plugin.models import methods as _registered  # noqa: F401 (their names are looked up)
from mmkd_plugin.registry import MODELS


@dataclass(frozen=True)
class Recipe:
    """A method with its defaults for classifiers and for detectors.

    Args:
        config: Config of the method.
        taps: Key of the method that names taps, ``'pairs'`` or ``'student_groups'``; '' if none.
        classifier: Word for the taps of classifiers.
        detector: Word for the taps of detectors.
        paraphraser: Whether each pair needs a paraphraser, which is trained first.
        mutual: Whether peers learn from each other; no teacher takes part.
        stated: Keys that no default fits, each with an example of the flag ``--set``.
        on_classifiers: Changes to the config for classifiers.
        on_detectors: Changes to the config for detectors.
    """

    config: Mapping[str, Any]
    taps: str = ''
    classifier: str = 'last'
    detector: str = 'neck'
    paraphraser: bool = False
    mutual: bool = False
    stated: Mapping[str, str] = field(default_factory=dict)
    on_classifiers: Mapping[str, Any] = field(default_factory=dict)
    on_detectors: Mapping[str, Any] = field(default_factory=dict)


#: tau = 1: at a dense head a softened probability of background is no background any more.
_SHARP = dict(temperature=1.0)

RECIPES: dict[str, Recipe] = {
    'kd': Recipe(dict(type='SoftTarget'), on_detectors=_SHARP),
    'logit': Recipe(dict(type='LogitMimic')),
    'dist': Recipe(dict(type='DIST'), on_classifiers=dict(temperature=4.0)),
    'dkd': Recipe(dict(type='DKD')),
    'nkd': Recipe(dict(type='NKD')),
    'hard': Recipe(dict(type='HardTarget')),
    'rkd': Recipe(dict(type='RKD')),
    'hint': Recipe(dict(type='Hint'), 'pairs'),
    'at': Recipe(dict(type='AttentionTransfer'), 'pairs', classifier='stages'),
    'ft': Recipe(dict(type='FactorTransfer'), 'pairs', paraphraser=True),
    'od': Recipe(
        dict(type='Overhaul'),
        stated=dict(pairs="[{'student': TAP, 'teacher': TAP, 'norm': PATH}, …]"),
    ),
    'pkd': Recipe(dict(type='PKD'), 'pairs'),
    'cwd': Recipe(dict(type='CWD'), 'pairs'),
    'mgd': Recipe(dict(type='MGD'), 'pairs'),
    'fgd': Recipe(dict(type='FGD'), 'pairs'),
    'bckd': Recipe(dict(type='BCKD')),
    'ld': Recipe(dict(type='LD')),
    'crosskd': Recipe(dict(type='CrossKD')),
    'amtml': Recipe(
        dict(type='AMTMLKD'), 'student_groups', 'stages', 'stages',
        on_detectors=_SHARP,
    ),
    'ie': Recipe(
        dict(type='IEKD'),
        'pairs',
        paraphraser=True,
        on_detectors=dict(reduction='size_invariant', encoder=dict(norm='gn')),
    ),
    'ie-at': Recipe(
        dict(type='IEKD', knowledge='attention'),
        'pairs',
        on_detectors=dict(reduction='size_invariant'),
    ),
    'mutual': Recipe(dict(type='SoftTarget', temperature=1.0), mutual=True),
    'ie-dml': Recipe(dict(type='IEKD'), 'pairs', mutual=True),
}  # fmt: skip


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a short name.

    Raises:
        ConfigError: If the name is unknown, or the method is not registered.
    """
    if name not in RECIPES:
        known, word = ', '.join(RECIPES), name.lower()
        same = [
            repr(short)
            for short, one in RECIPES.items()
            if word in (short, one.config['type'].lower())
        ]
        nearest = ', '.join(same) or nearest_names(word, RECIPES, most=3)
        raise ConfigError(
            'method',
            'is unknown',
            f'The nearest are {nearest}. All are {known}.',
            found=name,
        )
    recipe = RECIPES[name]
    kind = recipe.config['type']
    if MODELS.get(kind) is None:
        raise ConfigError('method', f'needs {kind!r}, which this version does not have', found=name)
    return recipe
