"""Names, links and messages in the docs exist."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = [*(ROOT / 'docs').glob('*.md'), *(ROOT / 'docs/methods').glob('*.md')]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(DOCS)]
MODULE = re.compile(r'\bmmkd_plugin(?:\.[a-z_]\w*)+(?:\.[A-Z]\w*)?\b')
every_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    headings = re.findall(r'^#+ (.*)$', text, re.M)
    words = [re.sub(r'[^\w\- ]', '', heading.lower()).strip() for heading in headings]
    return {word.replace(' ', '-') for word in words}


@every_page
def test_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if '://' in target:
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


#: The file that the example in CONTRIBUTING.md adds.
ADDED = {'mmkd_plugin.models.losses.cosine'}


def require_importable(names: set[str]) -> None:
    for name in sorted(names - ADDED):
        module, _, last = name.rpartition('.')
        if not hasattr(importlib.import_module(module), last):
            importlib.import_module(name)


@every_page
def test_module_of_a_page_can_be_imported(page: Path) -> None:
    require_importable(set(MODULE.findall(page.read_text())))


def test_new_name_of_the_changelog_can_be_imported() -> None:
    text = (ROOT / 'CHANGELOG.md').read_text()
    rows = re.search(r'\| old \| new \|\n\|---\|---\|\n(.*?)\n\n', text, re.S)
    assert rows is not None
    columns = [row.split('|')[2] for row in rows[1].splitlines()]
    require_importable({name for column in columns for name in MODULE.findall(column)})


def test_new_config_of_the_changelog_exists() -> None:
    text = (ROOT / 'CHANGELOG.md').read_text()
    rows = re.search(r'\| old, below.*?\n\|---\|---\|\n(.*?)\n\n', text, re.S)
    assert rows is not None
    names = [row.split('|')[2].strip(' `') for row in rows[1].splitlines()]
    paths = [name for name in names if name.endswith('.py') and 'NAME' not in name]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / 'configs' / path).is_file()] == []


def texts() -> list[str]:
    """Return every text of the package; inserted values read X."""
    found = []
    for file in (ROOT / 'mmkd_plugin').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            if isinstance(node, ast.JoinedStr):
                parts = node.values
                texts = [str(p.value) if isinstance(p, ast.Constant) else 'X' for p in parts]
                found.append(''.join(texts))
    return found


def test_message_of_the_troubleshooting_page_exists() -> None:
    known = texts()
    page = (ROOT / 'docs/troubleshooting.md').read_text()
    messages: list[str] = re.findall(r'^\| `(.*?)` \|', page, re.M)
    assert len(messages) > 15
    for message in messages:
        assert any(message in text for text in known), message
