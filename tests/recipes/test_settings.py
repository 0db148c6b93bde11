"""KEY=VALUE words of the command line."""

import argparse
from typing import Any

import pytest
from mmengine.config import DictAction

from mmkd_plugin.recipes.settings import Settings


def parsed(action: Any, *words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument('--set', nargs='+', action=action, default={})
    return dict(parser.parse_args(words).set)


@pytest.mark.parametrize(
    'word', ['a=1', 'a=2.5', 'a=True', 'a=word', 'a=1,2', 'a=[1,(b,2)]', 'a=x=y', 'a=']
)
def test_words_mean_what_they_mean_to_the_tools_of_openmmlab(word: str) -> None:
    assert parsed(Settings, '--set', word) == parsed(DictAction, '--set', word)


def test_pairs_can_be_written() -> None:
    pairs = "pairs=[{'student': 'a', 'teacher': 'b', 'norm': 'c'}]"
    found = parsed(Settings, '--set', pairs, 'x.y=1', '--set', 'z=2')
    assert found == {'pairs': [dict(student='a', teacher='b', norm='c')], 'x.y': 1, 'z': 2}


@pytest.mark.parametrize('word', ['temperature', '=4'])
def test_word_without_key_and_value_is_an_error_of_usage(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        parsed(Settings, '--set', word)
    assert done.value.code == 2
    assert f'--set: must be KEY=VALUE (found {word!r})' in capsys.readouterr().err
