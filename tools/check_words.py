"""Report turns of phrase that this project does not use, with file and line.

    python tools/check_words.py

It reads comments, docstrings and messages of code, and the prose of pages. CONTRIBUTING.md has the
rules of style. Spelling is checked by codespell.
"""

import ast
import io
import re
import sys
import tokenize
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    *('*.md', 'Makefile', 'pyproject.toml', 'constraints.txt', 'docs/**/*.md'),
    *('configs/**/*.md', 'configs/**/*.py', 'configs/**/*.yml', 'mmkd_plugin/**/*.py'),
    *('tools/**/*.py', 'tools/**/*.sh', 'tests/**/*.py'),
)
#: They quote the turns.
EXEMPT = ('mmkd_plugin/.mim', 'tools/check_words.py', 'tests/tools/test_check_words.py')
NETWORK = r'(?:students?|teachers?|peers?|networks?|models?|detectors?|classifiers?)'
SPEECH = r'(?:says?|said|asks?|asked|tells?|told|trusts?|trusted|looks?|looked|knows?|knew)'
TURNS = {
    # A question may begin so.
    r'\b(?:Of|Where|What|Who|Whom|Whoever)\b(?![^.?!]*\?)': 'begin with the subject',
    rf'\b{NETWORK} (?:(?:is|are|was|were) )?{SPEECH}\b': 'networks are no persons',
    r'\b(?:is|are|was|were|be|been) told\b': 'name the option or the argument',
    r'\b(?:says?|said) so\b': 'name what is printed, raised or written',
    r'\bwho(?:m?ever)\b': 'name the subject',
    r'\bof (?:its|their) own accord\b': 'write: by itself',
    r'\bsure(?:r|st)\b': 'write: more, or most confident',
    r'\bat the most\b': 'write: at most',
    r'\bbe it\b': 'write: whether … or',
    r'\bas \w+ again\b': 'give the factor',
    r'\b(?<!decimal )places\b': 'write: locations',
    r'\b(?<!in )facts?\b': 'write: metrics',
    r'\b(?:the|an|in|are) apart\b(?! from)': 'write: auxiliary modules',
    r'\blessons?\b': 'write: distillation losses',
    rf"\b{NETWORK}(?:'s?|’s?)? knowledge\b": 'write: outputs',
}
PATTERNS = [(re.compile(turn), advice) for turn, advice in TURNS.items()]


def turns_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the turns of a text: the line, counted from 0, the words, and the advice.

    Example:
        >>> list(turns_in('It is at most 3.'))
        []
        >>> list(turns_in('It is at the most 3.'))
        [(0, 'at the most', 'write: at most')]
    """
    lines = [line.strip() for line in text.split('\n')]  # a turn may be broken by a line
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    for pattern, advice in PATTERNS:
        for found in pattern.finditer(' '.join(lines)):
            yield bisect_right(starts, found.start()) - 1, found[0], advice


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a file with the numbers of their first lines."""
    text = path.read_text()
    if path.suffix == '.md':
        blank = lambda found: re.sub(r'[^\n]', ' ', found[0])  # noqa: E731  lines keep their numbers
        text = re.sub(r'^ *```.*?^ *```|`[^`]*`', blank, text, flags=re.M | re.S)
        yield from _paragraphs(text, 1)
    elif path.suffix == '.py':
        comments: list[tokenize.TokenInfo] = []
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                comments.append(token)
            elif token.type == tokenize.STRING:
                yield from _paragraphs(_content(token.string), token.start[0])
        yield from _joined((token.start[0], token.string.lstrip('#: ')) for token in comments)
    else:
        lines = enumerate(text.splitlines(), 1)
        yield from _joined((n, line.partition('#')[2].strip()) for n, line in lines if '#' in line)


def _content(literal: str) -> str:
    """Return the text of a string literal without code: names, and what is in backticks."""
    try:
        value = str(ast.literal_eval(literal))
    except (ValueError, SyntaxError):  # an f-string
        value = re.sub(r'\{[^{}]*\}', ' ', literal)
    return re.sub(r'``?[^`\n]*``?', ' ', value) if ' ' in value else ''


def _paragraphs(text: str, first: int) -> Iterator[tuple[int, str]]:
    line = first
    for paragraph in re.split(r'(\n\s*\n)', text):
        yield line, paragraph
        line += paragraph.count('\n')


def _joined(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Join comments on consecutive lines."""
    block: list[str] = []
    last = -1
    for number, line in lines:
        if block and number != last + 1:
            yield last + 1 - len(block), '\n'.join(block)
            block = []
        block.append(line)
        last = number
    if block:
        yield last + 1 - len(block), '\n'.join(block)


def check(root: Path) -> list[str]:
    """Return a line for each turn in the files below ``root``."""
    paths = sorted({path for pattern in FILES for path in root.glob(pattern) if path.is_file()})
    found = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        if not name.startswith(EXEMPT):
            found += [
                (name, first + line, words, advice)
                for first, text in prose_of(path)
                for line, words, advice in turns_in(text)
            ]
    return [f'{name}:{line}: {words!r} ({advice})' for name, line, words, advice in sorted(found)]


def main() -> None:
    """Print all turns; the exit code is 1 if there is one."""
    found = check(ROOT)
    print(*found, sep='\n', end='\n' if found else '')
    sys.exit(f'{len(found)} turns of phrase to rewrite' if found else 0)


if __name__ == '__main__':
    main()
