"""One network of the model zoo, and its record in the form of a model index."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmkd_plugin.errors import ConfigError

COLLECTION = 'Model zoo'


@dataclass(frozen=True)
class Entry:
    """A trained network: its file, its result, and how it was made.

    Paths begin in the root of the repository.

    Args:
        name: Its name in the index.
        config: A config of this network alone, which the tools of its framework read.
        weights: The file of its weights.
        sha256: Hash of this file, in hexadecimal digits.
        metrics: Every metric of the test, with all digits.
        task: Such as ``'Image Classification'``.
        data: Name of the data set of training and test.
        licence: Licence of these data.
        licence_source: Address of the page that states the licence.
        parameters: Number of parameters.
        seed: Seed of the training.
        training_config: Config of the training; that of a student has its teachers.
        training_sha256: Hash of this config, without where it lies.
        command: Command of the training.
        versions: Versions of the packages that tested it.

    Example:
        >>> values = dict.fromkeys(Entry.__dataclass_fields__, 'x') | dict(metrics={'top1': 50.5})
        >>> entry = Entry(**values)
        >>> Entry.from_index(entry.to_index()) == entry
        True
    """

    name: str
    config: str
    weights: str
    sha256: str
    metrics: Mapping[str, float]
    task: str
    data: str
    licence: str
    licence_source: str
    parameters: int
    seed: int
    training_config: str
    training_sha256: str
    command: str
    versions: Mapping[str, str]

    def to_index(self) -> dict[str, Any]:
        """Return the record of the index, a model in the form of ``model-index``."""
        return {
            'Name': self.name,
            'In Collection': COLLECTION,
            'Config': self.config,
            'Weights': self.weights,
            'Metadata': {key: getattr(self, name) for name, key in _METADATA.items()},
            'Results': [
                {'Task': self.task, 'Dataset': self.data, 'Metrics': dict(self.metrics)},
            ],
        }

    @classmethod
    def from_index(cls, record: Mapping[str, Any]) -> 'Entry':
        """Return the entry of a record.

        Raises:
            ConfigError: If a field is missing. The key is its path.
        """
        name = _field(record, 'Name', 'Models')
        metadata, results = (_field(record, key, name) for key in ('Metadata', 'Results'))
        if not results:
            raise ConfigError(f'{name}.Results', 'must have one result', found=results)
        result, where = results[0], f'{name}.Results'
        return cls(
            name=name,
            config=_field(record, 'Config', name),
            weights=_field(record, 'Weights', name),
            task=_field(result, 'Task', where),
            metrics=_field(result, 'Metrics', where),
            **{
                field: _field(metadata, key, f'{name}.Metadata') for field, key in _METADATA.items()
            },
        )


#: The fields of an entry under ``Metadata``.
_METADATA = {
    'sha256': 'SHA-256',
    'parameters': 'Parameters',
    'data': 'Training Data',
    'licence': 'Training Data License',
    'licence_source': 'Training Data License Source',
    'training_config': 'Training Config',
    'training_sha256': 'Training Config SHA-256',
    'command': 'Training Command',
    'seed': 'Seed',
    'versions': 'Versions',
}


def _field(record: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in record:
        raise ConfigError(
            f'{where}.{key}',
            'is missing in the index of the model zoo',
            'Add the network again: python tools/model_zoo.py add --help',
        )
    return record[key]
