import math
import pickle
from typing import Any

import pytest
from helpers.errors import ANY, raises_config_error

from mmkd_plugin.errors import (
    ConfigError,
    config_key,
    construct,
    mapping,
    nearest_names,
    no_nan,
    non_negative_number,
    one_of,
    positive_integer,
    positive_number,
)


@pytest.mark.parametrize(
    ('error', 'text'),
    [
        (ConfigError('a', 'must be b'), 'a: must be b.'),
        (ConfigError('a', 'must be b', found='x'), "a: must be b (found 'x')."),
        (ConfigError('a', 'must be b', found=None), 'a: must be b (found None).'),
        (ConfigError('a', 'must be b', 'Use b.', found=1), 'a: must be b (found 1). Use b.'),
    ],
)
def test_message_has_key_problem_found_value_and_remedy(error: ConfigError, text: str) -> None:
    assert str(error) == text


def test_error_crosses_processes_with_all_its_parts() -> None:
    error = ConfigError('a', 'must be b', 'Use b.', found=lambda: None)
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == str(error)
    assert (copied.key, copied.problem, copied.fix) == ('a', 'must be b', 'Use b.')
    assert copied.found == error.found


@pytest.mark.parametrize(
    ('own', 'key'), [('scale', 'loss.scale'), ('[0].scale', 'loss[0].scale'), ('', 'loss')]
)
def test_config_key_nests_the_key_and_keeps_the_rest(own: str, key: str) -> None:
    nested = raises_config_error(f'methods.{key}', 3, 'must be b', fix='Use b.')
    with nested, config_key('methods'), config_key('loss'):
        raise ConfigError(own, 'must be b', 'Use b.', found=3)


def test_config_key_keeps_the_cause() -> None:
    cause = KeyError('x')
    with pytest.raises(ConfigError) as caught, config_key('methods'):
        raise ConfigError('a', 'must be b') from cause
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize('error', [RuntimeError('x'), ValueError('y'), KeyError('z')])
def test_config_key_lets_other_exceptions_pass_untouched(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, config_key('methods'):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ('check', 'allowed', 'refused'),
    [
        (positive_number, (1, 0.5), (0, -1.0, math.nan, math.inf, '1', None, True)),
        (non_negative_number, (0, 0.5), (-1e-9, math.nan, math.inf, '1', None, False)),
        (positive_integer, (1, 7), (0, -1, 1.0, '1', None, True)),
    ],
)
def test_number_out_of_range_is_refused(check: Any, allowed: Any, refused: Any) -> None:
    for value in allowed:
        assert check('key', value) == value
    for value in refused:
        with raises_config_error('key', value, 'must be'):
            check('key', value)


def test_numbers_become_floats() -> None:
    assert type(positive_number('key', 4)) is type(non_negative_number('key', 0)) is float


@pytest.mark.parametrize('value', ['papr', 3, None, ['paper']])
def test_one_of_lists_the_words(value: Any) -> None:
    assert one_of('objective', 'paper', ('paper', 'label')) == 'paper'
    with raises_config_error('objective', value, "'paper', 'label'"):
        one_of('objective', value, ('paper', 'label'))


def test_one_of_suggests_the_nearest_word() -> None:
    with raises_config_error('objective', 'papr', fix="Did you mean 'paper'?"):
        one_of('objective', 'papr', ('paper', 'label'))


def test_mapping_is_a_copy_and_empty_for_none() -> None:
    given = dict(a=1)
    found = mapping('split', given, 'dict(ratio=0.5)')
    assert found == given and found is not given
    assert mapping('split', None, 'dict(ratio=0.5)') == {}
    for value in ('half', 0.5, [1]):
        with raises_config_error('split', value, 'must be a dict', fix='dict(ratio=0.5)'):
            mapping('split', value, 'dict(ratio=0.5)')


@pytest.mark.parametrize(
    ('config', 'key'),
    [
        (math.nan, 'student'),
        (dict(a=dict(b=math.nan)), 'student.a.b'),
        (dict(a=[1.0, dict(b=(0, math.nan))]), 'student.a[1].b[1]'),
    ],
)
def test_no_nan_names_the_first_one(config: Any, key: str) -> None:
    with raises_config_error(key, math.nan, 'must be a number'):
        no_nan('student', config)


def test_no_nan_lets_everything_else_pass() -> None:
    no_nan('student', dict(a=[1.0, math.inf, None, 'nan', dict(b=())]))


def test_nearest_names_are_quoted_and_the_nearest_is_first() -> None:
    names = ['backbone.layer1', 'backbone.layer2', 'neck']
    assert (
        nearest_names('backbone.layer2x', names, most=2) == "'backbone.layer2', 'backbone.layer1'"
    )


def make(size: int, *, scale: float = 1.0) -> tuple[int, float]:
    return size, positive_number('scale', scale)


def open_ended(**others: Any) -> dict[str, Any]:
    return others


def test_construct_calls_with_the_arguments_of_the_config() -> None:
    assert construct('split', make, dict(size=3, scale=2)) == (3, 2.0)
    assert construct('split', open_ended, dict(a=1)) == dict(a=1)


@pytest.mark.parametrize(
    ('arguments', 'key', 'found', 'mentions', 'fix'),
    [
        (dict(size=3, scal=2), 'split.scal', 2, 'make', "size, scale. Did you mean 'scale'?"),
        (dict(scale=2), 'split.size', ANY, 'is missing', 'make needs it'),
        (dict(size=3, scale=-2), 'split.scale', -2, 'must be a number > 0', None),
    ],
)
def test_construct_wrong_argument_is_refused(
    arguments: Any, key: str, found: Any, mentions: str, fix: str | None
) -> None:
    with raises_config_error(key, found, mentions, fix=fix):
        construct('split', make, arguments)
