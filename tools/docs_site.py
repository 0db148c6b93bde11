"""Hooks of MkDocs and Griffe for the documentation site: see mkdocs.yml.

The docstrings are written for Sphinx; here its roles and equations become Markdown.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from griffe import Extension
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
#: Pages outside docs/, by their file in the site.
OUTER = {
    'index.md': 'README.md',
    'CONTRIBUTING.md': 'CONTRIBUTING.md',
    'CHANGELOG.md': 'CHANGELOG.md',
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/."""
    for name, source in OUTER.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links in the repository into links in the site; name files that are not in it."""
    folder = posixpath.dirname(page.file.src_uri)
    return re.sub(r'(!?)\[([^\]]+)\]\(([^)\s]+)\)', lambda match: _link(match, folder), markdown)


def _link(match: re.Match[str], folder: str) -> str:
    picture, text, target = match.groups()
    path, hash_sign, anchor = target.partition('#')
    if '://' in target or not path:
        return match[0]
    inside = path.removeprefix('../').removeprefix('docs/')
    up = ''
    if folder:  # a page in a folder below docs/
        inside = posixpath.normpath(posixpath.join('docs', folder, path)).removeprefix('docs/')
        up = '../' * (folder.count('/') + 1)
    inside = {source: name for name, source in OUTER.items()}.get(inside, inside)
    if inside in OUTER or (ROOT / 'docs' / inside).is_file():
        return f'{picture}[{text}]({up}{inside}{hash_sign}{anchor})'
    return text  # a folder of configs or another file of the repository


class PlainDocstrings(Extension):
    """Turn Sphinx's roles and equations in docstrings into Markdown."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of every object that Griffe finds."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    r"""Return a docstring with Markdown for Sphinx's roles and equations.

    Example:
        >>> to_markdown('See :class:`~package.Method`, ``loss`` and :math:`x`.')
        'See `Method`, `loss` and \\(x\\).'
        >>> print(to_markdown('Sum:\n\n.. math:: a\n          + b\n\nwith a.'))
        Sum:
        <BLANKLINE>
        \[
        a
        + b
        \]
        <BLANKLINE>
        with a.
    """
    text = re.sub(r'^( *)\.\. math::((?:.*\n)(?:\1 +.*\n?)*)', _equation, text, flags=re.M)
    text = re.sub(r':math:`([^`]+)`', r'\\(\1\\)', text)
    text = re.sub(r':\w+:`~[\w.]*?(\w+)`', r'`\1`', text)
    text = re.sub(r':\w+:`([^`]+)`', r'`\1`', text)
    return text.replace('``', '`')


def _equation(match: re.Match[str]) -> str:
    indent = match[1]
    lines = [line.strip() for line in match[2].strip().splitlines()]
    return '\n'.join(f'{indent}{line}' for line in (r'\[', *lines, r'\]')) + '\n'
