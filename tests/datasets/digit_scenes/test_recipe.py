import json
from typing import Any

import pytest
from helpers.errors import raises_config_error

from mmkd_plugin.datasets.digit_scenes import scene
from mmkd_plugin.datasets.digit_scenes.recipe import SceneRecipe


def test_recipe_without_numbers_has_the_default_ones() -> None:
    assert SceneRecipe().scenes == dict(train=4000, val=400, test=400)
    assert SceneRecipe(dict(val=7)).scenes == dict(train=4000, val=7, test=400)
    assert SceneRecipe(dict(val=400)).sha256 == SceneRecipe().sha256


def test_recipe_hash_changes_with_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_recipe_facts_are_json() -> None:
    facts = SceneRecipe(seed=3).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert (facts['seed'], facts['digits'], facts['noise']) == (3, [2, 6], 18.0)


def test_recipe_hash_is_that_of_existing_folders() -> None:
    """Users' folders are recognised by these hashes: only a new VERSION may change them."""
    assert [SceneRecipe().sha256, SceneRecipe(dict(train=6), 72, seed=1).sha256] == [
        'e6397ae3f08fadfe5b77eca8c735f2f6ef5aec056403901e703ffd5290210e9f',
        'c15e63b2fbcac93d30e9fcd4950075081dbc3c1bf314fce084aad17c4d59a02f',
    ]


@pytest.mark.parametrize(
    ('options', 'key', 'found', 'mention'),
    [
        (dict(scenes=dict(trial=3)), 'scenes', {'trial': 3}, "'train', 'val', 'test'"),
        (dict(scenes=300), 'scenes', 300, "'train', 'val', 'test'"),
        (dict(scenes=dict(val=0)), 'scenes.val', 0, 'an integer >= 1'),
        (dict(scenes=dict(train=2.5)), 'scenes.train', 2.5, 'an integer >= 1'),
        (dict(image_size=63), 'image_size', 63, 'an integer >= 64'),
        (dict(image_size='96'), 'image_size', '96', 'an integer >= 64'),
        (dict(seed=-1), 'seed', -1, 'an integer >= 0'),
        (dict(seed=True), 'seed', True, 'an integer >= 0'),
    ],
)
def test_recipe_with_an_option_out_of_range_is_refused(
    options: dict[str, Any], key: str, found: Any, mention: str
) -> None:
    with raises_config_error(f'DigitScenes.{key}', found, mention):
        SceneRecipe(**options)
