"""Add a trained network to the model zoo."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from experiments.model_zoo.entry import Entry
from experiments.model_zoo.index import Zoo
from experiments.model_zoo.verify import metrics_of, restore
from experiments.versions import installed_versions
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.checkpoint import hash_file, load_file
from mmkd_plugin.loading.export import network_checkpoint, write
from mmkd_plugin.loading.run_model import kind_of, type_name

LIMIT = 2**20
_PACKAGES = (
    *('mmkd_plugin', 'torch', 'numpy', 'opencv-python', 'opencv-python-headless', 'mlxtend'),
    *('mmengine', 'mmcv', 'mmcv-lite', 'mmpretrain', 'mmdet'),
)
_KEPT_META = ('dataset_meta', 'epoch', 'iter', 'seed', 'mmengine_version')


@dataclass(frozen=True)
class Data:
    """A data set, as the index states it."""

    name: str
    task: str
    licence: str
    licence_source: str


_DIGITS = ('CC BY-SA 3.0', 'https://keras.io/api/datasets/mnist/')  # of MNIST
#: By the name of the data set's class.
KNOWN_DATA = {
    data.name: data
    for data in (
        Data('DistortedMNIST', 'Image Classification', *_DIGITS),
        Data('DigitScenes', 'Object Detection', *_DIGITS),
    )
}


@dataclass(frozen=True)
class Choices:
    """The choices of a user about a new network.

    Args:
        name: Its name; default: that of the config.
        test_config: A config of the network alone. A config that distils needs it.
        command: Command of the training; default: ``tools/train.py`` with the config.
        network: Name of the peer, after mutual learning.
        task: For a data set that is not known here.
        licence: For a data set that is not known here.
        licence_source: Address of the page that states it.
    """

    name: str | None = None
    test_config: str | None = None
    command: str | None = None
    network: str | None = None
    task: str | None = None
    licence: str | None = None
    licence_source: str | None = None


def add(zoo: Zoo, config: str, checkpoint: str, choices: Choices) -> Entry:
    """Export a trained network into the zoo, test it, and put it into the index.

    The file has the tensors of the network, and what a host needs to know of its classes. One of
    the same name is replaced. If this function raises, the zoo is as before.

    Args:
        zoo: The zoo.
        config: Config of the training.
        checkpoint: Checkpoint of this training, or its exported student.
        choices: All that is not in these files.

    Raises:
        ConfigError: If the files do not fit each other, if a setting is missing, or if the file is
            larger than 1 MiB.
    """
    training = zoo.relative(config, 'CONFIG')
    plain = zoo.relative(choices.test_config, '--test-config') if choices.test_config else training
    training_cfg, cfg = zoo.config(training), zoo.config(plain)
    name, command = _name(choices, training), _command(training_cfg, training, choices)
    data = _data(cfg, plain, choices)
    content = network_checkpoint(load_file(checkpoint, 'CHECKPOINT').content, choices.network)
    seed = _seed(training_cfg, content['meta'])
    content['meta'] = {key: content['meta'][key] for key in _KEPT_META if key in content['meta']}
    with tempfile.TemporaryDirectory(dir=zoo.folder, prefix='.') as folder:
        file = write(content, Path(folder) / f'{name}.pth', hashed=True)
        network = restore(zoo.path(plain), file.read_bytes(), checkpoint, 'CHECKPOINT')
        _require_small(file)
        metrics = metrics_of(zoo, plain, file, Path(folder))
        if not metrics:
            raise ConfigError('CHECKPOINT', f'has no metric on the test data of {plain}')
        entry = Entry(
            name=name,
            config=plain,
            weights=zoo.relative(str(zoo.folder / file.name), 'CHECKPOINT'),
            sha256=hash_file(str(file), 'CHECKPOINT'),
            metrics=metrics,
            task=data.task,
            data=data.name,
            licence=data.licence,
            licence_source=data.licence_source,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            seed=seed,
            training_config=training,
            training_sha256=zoo.config_sha256(training),
            command=command,
            versions=installed_versions(_PACKAGES),
        )
        before = zoo.entries().get(name)
        file.replace(zoo.path(entry.weights))
    zoo.write(entry)
    if before is not None and before.weights != entry.weights:
        zoo.path(before.weights).unlink(missing_ok=True)
    return entry


def _name(choices: Choices, training: str) -> str:
    name = choices.name or Path(training).stem
    if not re.fullmatch(r'[\w.-]+', name):
        raise ConfigError('--name', 'must have letters, digits, _, . and - alone', found=name)
    return name


def _command(training_cfg: Config, training: str, choices: Choices) -> str:
    if choices.command:
        return choices.command
    if kind_of(training_cfg.get('model')):
        raise ConfigError(
            '--command',
            'is missing: the training needs other networks first',
            'Give the command that trained them all.',
        )
    return f'python tools/train.py {training}'


def _data(cfg: Config, path: str, choices: Choices) -> Data:
    if kind := kind_of(cfg.get('model')):
        raise ConfigError(
            '--test-config',
            'must be a config of the network alone, which the tools of its framework read',
            f'{path} has a model of the kind {kind!r}: name the config of its student.',
        )
    if not cfg.get('test_dataloader'):
        raise ConfigError(f'{path}: test_dataloader', 'is missing', 'The index states a test.')
    name = type_name(cfg.test_dataloader.dataset.type).rpartition('.')[2]
    known = KNOWN_DATA.get(name)
    values: dict[str, Any] = {
        key: getattr(choices, key) or (getattr(known, key) if known else None)
        for key in ('task', 'licence', 'licence_source')
    }
    for key, value in values.items():
        if not value:
            raise ConfigError(
                f'--{key.replace("_", "-")}', f'is missing: {name} is no data set of this project'
            )
    return Data(name, **values)


def _require_small(file: Path) -> None:
    size = file.stat().st_size
    if size > LIMIT:
        raise ConfigError(
            'CHECKPOINT',
            'must be at most 1 MiB without its optimizer: the zoo is in the repository',
            found=f'{size / LIMIT:.1f} MiB',
        )


def _seed(training_cfg: Config, meta: Mapping[str, Any]) -> int:
    seed = meta.get('seed', training_cfg.get('randomness', {}).get('seed'))
    if seed is None:
        raise ConfigError('CHECKPOINT', 'must state its seed under meta, as those of MMEngine do')
    return int(seed)
