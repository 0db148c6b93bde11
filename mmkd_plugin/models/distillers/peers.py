"""The networks that teach each other: from the config key ``peers``."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine import ConfigDict
from torch import nn

from mmkd_plugin.adapters import Host, host_of
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.checkpoint import PEER_PREFIX, load_weights

LESSONS_PREFIX = 'lessons_'


@dataclass(frozen=True)
class Peer:
    """What is said of one of the networks; the network itself is a child of the distiller.

    Args:
        name: In logs, metrics, optimizers and file names.
        key: The config key, for messages.
        host: Of the network.
        changes: What it changes in the methods' configs as a learner, by method and key.
    """

    name: str
    key: str
    host: Host
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def build_peers(
    entries: Sequence[Mapping[str, Any]], data_preprocessor: Any
) -> list[tuple[Peer, nn.Module]]:
    """Build the networks; load those that have a checkpoint, strictly.

    The first draws the random numbers of a plain run of its config; the others draw theirs aside.

    Args:
        entries: From :func:`~mmkd_plugin.loading.peer_entries.peer_entries`.
        data_preprocessor: The run's, for networks without their own.

    Raises:
        ValueError: If a network or its checkpoint is wrong, or two share a part.
    """
    first = _build(entries[0], 0, data_preprocessor)
    with torch.random.fork_rng(devices=[]):
        others = [
            _build(entry, 1 + index, data_preprocessor) for index, entry in enumerate(entries[1:])
        ]
    peers = [first, *others]
    _require_separate([(peer.key, network) for peer, network in peers])
    return peers


def require_same_peers(saved: Sequence[str], names: Sequence[str]) -> None:
    """A run goes on with the networks that it began with.

    Args:
        saved: The keys of its state dict; of another model's, nothing is asked.
        names: The peers'.

    Raises:
        ValueError: If there are others, more or fewer.
    """
    found = {
        key.partition('.')[0].removeprefix(PEER_PREFIX): None
        for key in saved
        if key.startswith(PEER_PREFIX)
    }
    if found and set(found) != set(names):
        raise ValueError(
            f'peers: expected those that the run began with, {list(found)}, got {list(names)}; to go on with others, start a new '
            'run whose peers have the exported ones as checkpoint'
        )


def _build(entry: Mapping[str, Any], index: int, data_preprocessor: Any) -> tuple[Peer, nn.Module]:
    key = f'peers[{index}] ({entry["name"]})'
    config = network_config(
        entry['model'], f'{key}.model', entry.get('cfg_options'), data_preprocessor
    )
    if entry.get('data_preprocessor') is not None:
        config.data_preprocessor = ConfigDict(entry['data_preprocessor'])
    network: Any = build_network(config, f'{key}.model')
    if entry.get('checkpoint') is not None:
        load_weights(network, entry['checkpoint'], f'{key}.checkpoint')
        network.is_init = True  # or the Runner would initialise it anew
    return Peer(entry['name'], key, host_of(network), entry.get('methods') or {}), network


def _require_separate(networks: Sequence[tuple[str, nn.Module]]) -> None:
    """No parameter, buffer or module that holds one is in two networks: both would train it, and each would teach itself."""
    for (one_key, one), (other_key, other) in itertools.combinations(networks, 2):
        theirs = {id(part): path for path, part in _parts(other)}
        for path, part in _parts(one):
            if id(part) in theirs:
                raise ValueError(
                    f'{other_key}.model: expected a network of its own, got one that shares {theirs[id(part)]} with {one_key} '
                    f'({path})'
                )


def _parts(network: nn.Module) -> list[tuple[str, object]]:
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return [(path, tensor) for path, tensor in tensors if not path.startswith('data_preprocessor.')]
