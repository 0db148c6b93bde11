import json
from typing import Any

import pytest

from mmkd_plugin.datasets.digit_scenes import scene
from mmkd_plugin.datasets.digit_scenes.recipe import SceneRecipe


def test_numbers_left_out_are_the_usual_ones() -> None:
    assert SceneRecipe().scenes == dict(train=4000, val=400, test=400)
    assert SceneRecipe(dict(val=7)).scenes == dict(train=4000, val=7, test=400)
    assert SceneRecipe(dict(val=400)).sha256 == SceneRecipe().sha256


def test_whatever_decides_changes_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {
        SceneRecipe().sha256,
        SceneRecipe(dict(test=1)).sha256,
        SceneRecipe(image_size=128).sha256,
    }
    hashes.add(SceneRecipe(seed=1).sha256)
    decide = {
        name: value for name, value in vars(scene).items() if name.isupper() and name != 'INK'
    }
    assert len(decide) >= 13
    for name, value in decide.items():
        with monkeypatch.context() as patch:
            patch.setattr(scene, name, (1, 2) if isinstance(value, tuple) else value + 1)
            hashes.add(SceneRecipe().sha256)
    assert len(hashes) == 4 + len(decide)


def test_facts_are_json() -> None:
    facts = SceneRecipe(seed=3).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert (facts['seed'], facts['digits'], facts['noise']) == (3, [2, 6], 18.0)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(scenes=dict(trial=3)),
            r"scenes: expected numbers for some of .*'test'\), got \{'trial': 3\}",
        ),
        (dict(scenes=300), r'scenes: expected numbers for some of .*, got 300'),
        (dict(scenes=dict(val=0)), r'scenes.val: expected a whole number >= 1, got 0'),
        (dict(scenes=dict(train=2.5)), r'scenes.train: expected a whole number >= 1, got 2.5'),
        (dict(image_size=63), r'image_size: expected a whole number >= 64, got 63'),
        (dict(image_size='96'), r"image_size: expected a whole number >= 64, got '96'"),
        (dict(seed=-1), r'seed: expected a whole number >= 0, got -1'),
        (dict(seed=True), r'seed: expected a whole number >= 0, got True'),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f'^DigitScenes.{message}'):
        SceneRecipe(**options)
