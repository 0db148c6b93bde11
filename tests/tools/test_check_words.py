"""tools/check_words.py: banned turns are found with their lines, and plain sentences are not."""

from pathlib import Path

import pytest
from check_words import check, turns_in


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('It ends. Of two teachers the first is taken.', 'Of'),
        ('What is missing is said at import.', 'What'),
        ('The teacher knows the class.', 'teacher knows'),
        ('the networks are asked for scores', 'networks are asked'),
        ('whatever it is told', 'is told'),
        ('an error says so', 'says so'),
        ('of its\nown accord', 'of its own accord'),
        ('the surest teacher', 'surest'),
        ('half as many again', 'as many again'),
        ('thousands of places', 'places'),
        ('The facts are logged.', 'facts'),
        ('their lessons', 'lessons'),
        ("the teacher's knowledge", "teacher's knowledge"),
    ],
)
def test_turns_in_banned_turn_is_found(text: str, words: str) -> None:
    assert [found for _, found, _ in turns_in(text)] == [words]


@pytest.mark.parametrize(
    'text',
    [
        'What does a step cost? Where is its log?',
        'Three decimal places, in fact.',
        'apart from the first',
        'Knowledge distillation transfers the output of a model.',
        'It takes place at most once, and by itself.',
    ],
)
def test_turns_in_plain_sentence_has_none(text: str) -> None:
    assert list(turns_in(text)) == []


def test_check_reports_file_and_line_of_prose_alone(tmp_path: Path) -> None:
    (tmp_path / 'mmkd_plugin').mkdir()
    (tmp_path / 'mmkd_plugin/a.py').write_text(
        'Whoever = places = 1  # Of all.\n'
        'def f():\n'
        '    """First.\n'
        '\n'
        '    As it is\n'
        '    told.\n'
        '    """\n'
        "    return f'{places} at the most', 'places'\n"
        '# In these\n'
        '# facts.\n'
    )
    (tmp_path / 'README.md').write_text('# A\n\n```\nWhat\n```\n\n`Who` is\nWho.\n')
    (tmp_path / 'Makefile').write_text('What:  # at the most one\n')
    assert [line.partition(' (')[0] for line in check(tmp_path)] == [
        "Makefile:1: 'at the most'",
        "README.md:8: 'Who'",
        "mmkd_plugin/a.py:1: 'Of'",
        "mmkd_plugin/a.py:5: 'is told'",
        "mmkd_plugin/a.py:8: 'at the most'",
        "mmkd_plugin/a.py:10: 'facts'",
    ]
