"""Check networks of the model zoo: the hash, strict loading, and the metrics to the last digit."""

import hashlib
import io
import pickle
from pathlib import Path
from unittest import mock

import torch
from mmengine.runner import runner
from torch import nn

from experiments.model_zoo.entry import Entry
from experiments.model_zoo.index import Zoo
from mmkd_plugin.engine.evaluate import evaluate_checkpoint
from mmkd_plugin.engine.launch import isolated_runner_state
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.keys import state_of


def verify(zoo: Zoo, entry: Entry, work_dir: Path) -> dict[str, float]:
    """Check a network of the zoo, and return its metrics.

    Args:
        zoo: The zoo.
        entry: The network.
        work_dir: Folder for the logs of the test.

    Raises:
        ConfigError: If the file is missing or changed, does not restore the network, or has
            another metric than the index.
    """
    load_entry(zoo, entry)
    measured = metrics_of(zoo, entry.config, zoo.path(entry.weights), work_dir)
    for key, expected in entry.metrics.items():
        if measured.get(key) != expected:
            raise ConfigError(
                f'{entry.name}.Results.Metrics.{key}',
                f'must be {expected}, as the index states',
                'Another version of a package or of the test data changes it: compare '
                f'{dict(entry.versions)}.',
                found=measured.get(key),
            )
    return measured


def load_entry(zoo: Zoo, entry: Entry) -> nn.Module:
    """Return the network with its weights, after the check of the hash.

    Raises:
        ConfigError: If the file is missing or changed, or does not restore the network.
    """
    data = checked_bytes(zoo, entry)
    return restore(zoo.path(entry.config), data, entry.weights, entry.name)


def checked_bytes(zoo: Zoo, entry: Entry) -> bytes:
    """Return the content of the weights' file, after the check of the hash.

    Raises:
        ConfigError: If the file is missing or changed.
    """
    path, remedy = zoo.path(entry.weights), f'Restore it: git checkout -- {entry.weights}'
    if not path.is_file():
        raise ConfigError(f'{entry.name}.Weights', 'must be a file', remedy, found=entry.weights)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise ConfigError(
            f'{entry.name}.Metadata.SHA-256',
            f'must be {entry.sha256}, so {entry.weights} has changed',
            remedy,
            found=found,
        )
    return data


def restore(config: Path, data: bytes, path: str, key: str) -> nn.Module:
    """Build the network of a config, and load a file as torch does by default: code is refused.

    Every parameter and buffer must be in the file, and no other tensor.

    Args:
        config: A config of the network alone.
        data: The content of the file.
        path: Its path, for messages.
        key: The key of the message.

    Raises:
        ConfigError: If the file does not restore the network.
    """
    network = build_network(network_config(str(config), key), key)
    try:
        content = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
        network.load_state_dict(state_of(content), strict=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            key, 'must hold tensors alone, which torch.load(weights_only=True) reads', found=path
        ) from error
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        words = ' '.join(str(error).split())[:300]
        raise ConfigError(
            key, f'must restore the network of {config.name} strictly: {words}', found=path
        ) from error
    return network


def metrics_of(zoo: Zoo, config: str, weights: Path, work_dir: Path) -> dict[str, float]:
    """Return the metrics of weights on the test data of a config, as ``tools/test.py`` does.

    The CPU computes them, because a GPU rounds differently.

    Args:
        zoo: The zoo.
        config: A config, by its path in the index.
        weights: Path of the file.
        work_dir: Folder for the logs of the test.
    """
    cfg = zoo.config(config)
    cfg.work_dir, cfg.log_level = str(work_dir), 'WARNING'
    with isolated_runner_state(), mock.patch.object(runner, 'get_device', return_value='cpu'):
        found = evaluate_checkpoint(cfg, str(weights))
    return {key: float(value) for key, value in found.items()}
