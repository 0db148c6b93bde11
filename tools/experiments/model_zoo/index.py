"""The index of the model zoo: metafile.yml for machines, a table in README.md for people."""

import os
from collections.abc import Iterable
from pathlib import Path

import yaml
from mmengine.config import Config

from experiments.model_zoo.entry import COLLECTION, Entry
from mmkd_plugin.engine.stages import config_text, sha256
from mmkd_plugin.errors import ConfigError, one_of
from mmkd_plugin.loading.config_files import read_config

FOLDER = Path(__file__).resolve().parents[3] / 'configs/model_zoo'
_HEAD = """\
# Written by `python tools/model_zoo.py add`. Paths begin in the root of the repository, or in .mim
# of the installed package. Metrics have all digits, and are those of the CPU.
"""
_BEGIN, _END = '<!-- begin: python tools/model_zoo.py add -->\n', '<!-- end -->\n'


class Zoo:
    """The folder of a model zoo.

    Args:
        folder: It holds the weights, ``metafile.yml`` and ``README.md``. The root of the repository
            is two folders above.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder.resolve()
        self.root = self.folder.parents[1]

    @property
    def index(self) -> Path:
        return self.folder / 'metafile.yml'

    @property
    def readme(self) -> Path:
        return self.folder / 'README.md'

    def entries(self) -> dict[str, Entry]:
        """Return the networks by name, in the order of the index.

        Raises:
            ConfigError: If a field of the index is missing.
        """
        if not self.index.exists():
            return {}
        records = yaml.safe_load(self.index.read_text())['Models']
        return {entry.name: entry for entry in map(Entry.from_index, records)}

    def named(self, names: Iterable[str]) -> list[Entry]:
        """Return the networks of these names; all of them if there are no names.

        Raises:
            ConfigError: If a name is not in the index.
        """
        entries = self.entries()
        return [entries[one_of('NAME', name, entries)] for name in names] or [*entries.values()]

    def write(self, entry: Entry) -> None:
        """Put a network into the index and into the table, in place of one of the same name."""
        entries = self.entries() | {entry.name: entry}
        content = {
            'Collections': [{'Name': COLLECTION, 'README': 'README.md'}],
            'Models': [each.to_index() for each in entries.values()],
        }
        index = _HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        write_whole(self.index, index.encode())
        readme = self.with_table(self.readme.read_text(), entries.values())
        write_whole(self.readme, readme.encode())

    def with_table(self, readme: str, entries: Iterable[Entry]) -> str:
        """Return a page with the table of these networks between its two marks.

        Raises:
            ConfigError: If the page has no marks.
        """
        before, begin, rest = readme.partition(_BEGIN)
        _, end, after = rest.partition(_END)
        if not end:
            raise ConfigError(
                str(self.readme), 'must have the marks of the table', f'Add {_BEGIN}{_END}'
            )
        return before + begin + '\n' + self.table(entries) + '\n' + end + after

    def table(self, entries: Iterable[Entry]) -> str:
        """Return the table of README.md."""
        lines = [
            '| network | trained by | test | parameters | tested by | weights |',
            '|---|---|---|---|---|---|',
        ]
        for entry in entries:
            metric, value = next(iter(entry.metrics.items()))
            cells = [
                f'`{entry.name}`',
                self._link(entry.training_config),
                f'{value:.2f} {metric}, {entry.data}',
                f'{entry.parameters:,}',
                self._link(entry.config),
                self._link(entry.weights),
            ]
            lines.append(f'| {" | ".join(cells)} |')
        return '\n'.join(lines) + '\n'

    def path(self, relative: str) -> Path:
        """Return the path of a file that the index names."""
        return self.root / relative

    def relative(self, path: str, key: str) -> str:
        """Return the path that the index has for a file.

        Raises:
            ConfigError: If the file is not in the repository.
        """
        absolute = Path(path).resolve()
        if not absolute.is_relative_to(self.root):
            raise ConfigError(key, f'must be a file in {self.root}', found=path)
        return absolute.relative_to(self.root).as_posix()

    def config(self, relative: str) -> Config:
        """Read a config that the index names."""
        return read_config(str(self.path(relative)), 'config')

    def config_sha256(self, relative: str) -> str:
        """Return the hash of a config with its bases, wherever it lies."""
        return sha256(config_text(self.config(relative)))

    def _link(self, relative: str) -> str:
        path = self.path(relative)
        target = Path(os.path.relpath(path, self.folder)).as_posix()
        return f'[{path.name.removesuffix(".py")}]({target})'


def write_whole(path: Path, content: bytes) -> None:
    """Write a file at once: an interrupted call leaves the old one, or none."""
    new = path.with_name(f'.{path.name}.tmp')
    new.write_bytes(content)
    new.replace(path)
