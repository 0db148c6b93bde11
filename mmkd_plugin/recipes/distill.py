"""One call from a student's config and teachers' files to a config that distils."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.config_files import read_config, reading_once
from mmkd_plugin.loading.run_model import kind_of
from mmkd_plugin.recipes.changes import changes_of, merged_with
from mmkd_plugin.recipes.networks import Networks, name_of, one_thread
from mmkd_plugin.recipes.stages import paraphraser_stage, paraphraser_stem
from mmkd_plugin.recipes.table import Recipe, recipe_of
from mmkd_plugin.recipes.text import new_keys, to_text

#: A teacher: (config, checkpoint), or the dict of a distillation config.
TeacherLike = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """Configs of all stages, in the order of training.

    Args:
        texts: Text of each stage, by the name of its file.
        taps: Chosen taps with their shapes, in words, and keys that options add.
    """

    texts: Mapping[str, str]
    taps: Sequence[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the file of the last stage, which trains the student."""
        return list(self.texts)[-1]

    def write(self, folder: str | Path, force: bool = False) -> list[Path]:
        """Write the files; return their paths.

        Args:
            folder: The folder; it is made.
            force: Whether files of these names are overwritten.

        Raises:
            ConfigError: If a file is there.
        """
        paths = [Path(folder) / name for name in self.texts]
        for path in paths:
            if path.exists() and not force:
                raise ConfigError(
                    'out',
                    'has a file of this name',
                    'Choose another folder, or add --force.',
                    found=str(path),
                )
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f'must be a folder that can be written: {error.strerror}'
            raise ConfigError('out', problem, found=str(folder)) from error
        for path, text in zip(paths, self.texts.values(), strict=True):
            path.write_text(text)
        return paths


def distill(
    student: str,
    teachers: Sequence[TeacherLike] = (),
    method: str = 'kd',
    *,
    peers: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Config:
    """Return a config that distils teachers into a student.

    Data, schedule, hooks and evaluator are those of the student's config. The taps of the method
    are chosen, and stated as paths. Methods that need paraphrasers (``'ie'``, ``'ft'``) refer to
    their checkpoints; :func:`plan` also returns the configs of their stages.

    Args:
        student: A config of MMPretrain, MMDet or another host: a path or ``'pkg::path'``.
        teachers: ``(config, checkpoint)`` of each teacher, or its dict.
        method: A short name: ``'kd'``, ``'amtml'``, ``'ie'`` and others; see
            :data:`~mmkd_plugin.recipes.table.RECIPES`.
        peers: Configs of the other networks of mutual learning.
        options: Other changes to the config, ``{'train_cfg.max_epochs': 1}``.
        **settings: Arguments of the method, such as ``temperature=2.0``.

    Raises:
        ConfigError: If the method is unknown, a network cannot be built, a checkpoint does not fit,
            or a setting is wrong.

    Example:
        ::

            config = mmkd_plugin.distill(
                'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
                [('mmpretrain::resnet/resnet50_8xb16_cifar10.py', 'resnet50.pth')],
                'kd',
                temperature=2.0,
            )
    """
    found = plan(student, teachers, method, peers, settings, options)
    return Config.fromstring(found.texts[found.name], '.py')


@one_thread()
@reading_once()
def plan(
    student: str,
    teachers: Sequence[TeacherLike],
    method: str,
    peers: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    work_dir: str | None = None,
) -> Plan:
    """Return the configs of all stages; nothing is written.

    Args:
        student: See :func:`distill`.
        teachers: See :func:`distill`.
        method: See :func:`distill`.
        peers: See :func:`distill`.
        settings: Arguments of the method.
        options: See :func:`distill`.
        folder: Folder for the files, to which the path of the student becomes relative; None keeps
            it absolute.
        work_dir: Root of the folders of the runs; ``work_dirs`` by default.

    Raises:
        ConfigError: See :func:`distill`.
    """
    recipe = recipe_of(method)
    _require_partners(method, recipe, teachers, peers)
    base = read_config(student, 'student')
    if kind_of(base.get('model')):
        raise ConfigError(
            'student',
            'must be the config of a plain run, and this one distils already',
            'Give the config that it inherits. To change this one, edit it.',
            found=student,
        )
    entries = [_entry(index, teacher) for index, teacher in enumerate(teachers)]
    _require_own_names(entries)
    networks = Networks(student, entries, peers)
    config = {**recipe.config, **_defaults(recipe, networks), **(settings or {})}
    for key, example in recipe.stated.items():
        if key not in config:
            raise ConfigError(
                f'methods.{method}.{key}',
                'must be stated',
                f'Write --set "{key}={example}". tools/inspect_taps.py lists taps and paths.',
            )
    name = method.replace('-', '_')
    taps: list[str] = []
    if recipe.taps and isinstance(config.get(recipe.taps), str):
        config, taps = networks.with_taps(name, recipe, config)
    stem = '_'.join([method, *(entry['name'] for entry in entries), Path(student).stem])
    root = work_dir or os.environ.get('MMKD_WORK_DIR', 'work_dirs')
    relative, absolute = _relative(student, folder), _relative(student, None)
    texts: dict[str, str] = {}
    checks: list[str] = []  # with paths that do not depend on a folder
    for number, pair in enumerate(config['pairs'] if recipe.paraphraser else ()):
        if 'checkpoint' in pair:
            continue
        stage = paraphraser_stem(stem, number, len(config['pairs']))
        of_stage = base, entries[pair.get('index', 0)], pair['teacher'], f'{root}/{stage}'
        checks.append(paraphraser_stage(absolute, *of_stage)[0])
        texts[f'{stage}.py'], pair['checkpoint'] = paraphraser_stage(relative, *of_stage)
    content = {
        'model': networks.model(name, config),
        **changes_of(base, recipe, config, options or {}),
    }
    texts[f'{stem}.py'] = _text(relative, content, options or {})
    if not checks:  # or checkpoints of paraphrasers are still missing
        checks.append(_text(absolute, content, options or {}))
    for text in checks:  # a fault is found before anything is written
        networks.require_builds(text)
    return Plan(texts, [*taps, *new_keys(base.to_dict(), options or {})])


def _require_partners(
    method: str, recipe: Recipe, teachers: Sequence[TeacherLike], peers: Sequence[str]
) -> None:
    if recipe.mutual and (not peers or teachers):
        raise ConfigError(
            'peer',
            f'must name the other networks of {method!r}, which has no teacher',
            'Write --peer CONFIG, and no --teacher.',
            found=len(peers),
        )
    if not recipe.mutual and (not teachers or peers):
        raise ConfigError(
            'teacher',
            f'must name a config and a checkpoint for {method!r}, which has no peers',
            'Write --teacher CONFIG CHECKPOINT, and no --peer.',
            found=len(teachers),
        )


def _entry(index: int, teacher: TeacherLike) -> dict[str, Any]:
    if isinstance(teacher, Mapping):
        entry = dict(teacher)
        entry.setdefault('name', f'teacher{index}')
        return entry
    if isinstance(teacher, str) or len(teacher) != 2:
        raise ConfigError(
            f'teachers[{index}]', 'must be (config, checkpoint) or a dict', found=teacher
        )
    model, checkpoint = map(str, teacher)
    return dict(name=name_of(model), model=model, checkpoint=checkpoint)


def _require_own_names(entries: Sequence[dict[str, Any]]) -> None:
    """Number the teachers whose configs have one name."""
    names = [entry['name'] for entry in entries]
    for index, entry in enumerate(entries):
        if names.count(entry['name']) > 1:
            entry['name'] = f'{entry["name"]}-{index}'


def _defaults(recipe: Recipe, networks: Networks) -> dict[str, Any]:
    detector = networks.is_detector
    found = dict(recipe.on_detectors if detector else recipe.on_classifiers)
    if recipe.taps:
        found[recipe.taps] = recipe.detector if detector else recipe.classifier
    return found


def _relative(student: str, folder: str | Path | None) -> str:
    if '::' in student:
        return student
    path = Path(student).resolve()
    return str(path) if folder is None else os.path.relpath(path, Path(folder).resolve())


def _text(base: str, content: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return the text of a config over a base.

    Args:
        base: Path of the base.
        content: Its top-level keys.
        options: Changes to them, and to those of the base.
    """
    merged = merged_with(content, options)
    lines = [f'_base_ = {base!r}', '']
    for key, value in merged.to_dict().items():
        lines.append(f'{key} = {to_text(value, used=len(key) + 3)}')
    return '\n'.join(lines) + '\n'
