"""One of several networks that learn from each other."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine import Config, ConfigDict
from torch import Tensor, nn

from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.errors import ConfigError, config_key
from mmkd_plugin.loading.build import build_network, student_config
from mmkd_plugin.loading.checkpoint import load_weights
from mmkd_plugin.models.distillers.distiller import method_losses
from mmkd_plugin.models.distillers.method_set import MethodSet
from mmkd_plugin.models.distillers.student_state import hold_network
from mmkd_plugin.models.methods.base import Requests
from mmkd_plugin.outputs import NetworkOutput


class PeerMethods(MethodSet):
    """The methods of one peer, as one module that DDP can wrap."""

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the losses and metrics of all methods as ``<method>.<name>``."""
        if self.numbers:
            self.set_time()
        return method_losses(self, student, teachers, labels)


class AuxiliaryModules(nn.ModuleDict):
    """The auxiliary modules of one peer's methods by name; see :attr:`Method.auxiliary`."""

    def forward(self, teachers: Sequence[NetworkOutput]) -> dict[str, Tensor]:
        """Return their losses and metrics as ``<method>.<name>``."""
        losses: dict[str, Tensor] = {}
        for name, module in self.items():
            losses.update({f'{name}.{part}': value for part, value in module(teachers).items()})
        return losses


class Peer(nn.Module):
    """A network that learns by its own methods from the other peers.

    Args:
        name: Its name in logs, metrics, optimizers and file names.
        key: The config key, for messages.
        network: The network.
        methods: Its own instance of every method.
    """

    def __init__(self, name: str, key: str, network: nn.Module, methods: PeerMethods) -> None:
        super().__init__()
        self.name = name
        self.key = key
        self.network = network
        self.methods = methods
        self.auxiliary = AuxiliaryModules()
        self.tapped = TappedModel(network, key)
        self.requests: dict[str, Requests] = {}
        self.checked = False  # by the first batch
        hold_network(self, 'network', plain=False)

    def finish(self, requests: dict[str, Requests]) -> None:
        """Take over what its methods requested, and the auxiliary modules that they built."""
        self.requests = requests
        for name, method in self.methods.named():
            if method.auxiliary is not None:
                self.auxiliary[name] = method.auxiliary

    def trained_together(self) -> nn.Module:
        """Return what one optimizer trains: the network, and methods that have parameters.

        Parameters of the network have the names of a plain run.
        """
        if not any(True for _ in self.methods.parameters()):
            return self.network
        together = nn.Module()
        for name, parameter in self.network.named_parameters(recurse=False):
            together.register_parameter(name, parameter)
        for name, child in self.network.named_children():
            together.add_module(name, child)
        together.add_module('methods', self.methods)
        return together

    @torch.no_grad()
    def observe(self, inputs: Tensor, data_samples: Any) -> NetworkOutput:
        """Run in the present mode for the others, without gradients.

        Running BatchNorm statistics stay as they are.
        """
        with frozen_bn_statistics(self.network):
            return self.tapped.observe(inputs, data_samples=data_samples)


def build_peers(
    entries: Sequence[Mapping[str, Any]],
    methods: Any,
    task_weight: float,
    data_preprocessor: Any,
) -> list[Peer]:
    """Build the networks, load those that have a checkpoint, and build their methods.

    The first network draws the random numbers of a plain run of its config; everything else draws
    from a fork.

    Args:
        entries: From :func:`~mmkd_plugin.loading.peer_entries.peer_entries`.
        methods: The config key ``methods``.
        task_weight: Weight of the peers' own losses.
        data_preprocessor: Preprocessing of the run, for networks without their own.

    Raises:
        ConfigError: If a network, a checkpoint or a method is wrong, two networks share a
            parameter, or a peer has no loss.
    """
    networks = [_network(entries[0], 0, data_preprocessor)]
    with torch.random.fork_rng(devices=[]):
        for index, entry in enumerate(entries[1:], start=1):
            networks.append(_network(entry, index, data_preprocessor))
    _require_separate([(key, network) for key, network in networks])
    peers = []
    with torch.random.fork_rng(devices=[]):
        for entry, (key, network) in zip(entries, networks, strict=True):
            if 'methods' in dict(network.named_children()):  # trained_together needs the name
                raise ConfigError(f'{key}.model', "must have no child module called 'methods'")
            own = _methods(methods, entry.get('methods') or {}, key)
            if not own and not task_weight:
                raise ConfigError(
                    'task_weight',
                    f'must be a number > 0 where no method has a weight: nothing trains {key}',
                    found=task_weight,
                )
            peers.append(Peer(entry['name'], key, network, own))
    return peers


@contextmanager
def frozen_bn_statistics(*networks: nn.Module) -> Iterator[None]:
    """Normalise by the batch, as in training, without a change of the running statistics.

    A peer's outputs for the others are those that it has when it learns from this batch, but a
    batch counts once in its statistics. Layers in eval mode stay as they are.
    """
    layers = [
        layer
        for network in networks
        for layer in network.modules()
        if layer.training and getattr(layer, 'track_running_stats', False) is True
    ]
    for layer in layers:
        layer.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True  # type: ignore[assignment]


def _network(entry: Mapping[str, Any], index: int, data_preprocessor: Any) -> tuple[str, nn.Module]:
    key = f'peers[{index}] ({entry["name"]})'
    options = entry.get('cfg_options')
    config = student_config(entry['model'], f'{key}.model', options, data_preprocessor)
    if entry.get('data_preprocessor') is not None:
        config.data_preprocessor = ConfigDict(entry['data_preprocessor'])
    network: Any = build_network(config, f'{key}.model')
    if entry.get('checkpoint') is not None:
        named = entry.get('checkpoint_key'), entry.get('checkpoint_prefix')
        load_weights(network, entry['checkpoint'], f'{key}.checkpoint', *named)
        network.is_init = True  # or the Runner would initialise it again
    return key, network


def _methods(configs: Any, changes: Any, key: str) -> PeerMethods:
    """Build the methods with a peer's changes, merged as ``--cfg-options`` would be."""
    with config_key(key) if changes else nullcontext():
        if changes and isinstance(configs, Mapping):
            if not isinstance(changes, Mapping) or not changes.keys() <= configs.keys():
                raise ConfigError(
                    'methods', f'must be changes to some of {list(configs)}', found=changes
                )
            merged = Config(dict(methods=dict(configs)))
            merged.merge_from_dict(dict(methods=dict(changes)))
            configs = merged.methods
        return PeerMethods(configs)


def _require_separate(networks: Sequence[tuple[str, nn.Module]]) -> None:
    """Refuse networks that share a parameter or buffer: both would train it."""
    for (one_key, one), (other_key, other) in itertools.combinations(networks, 2):
        theirs = {id(tensor): path for path, tensor in _tensors(other)}
        for path, tensor in _tensors(one):
            if id(tensor) in theirs:
                raise ConfigError(
                    f'{other_key}.model',
                    f'shares {theirs[id(tensor)]} with {one_key} ({path})',
                    'Build a separate network for each peer.',
                )


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return [(path, tensor) for path, tensor in tensors if not path.startswith('data_preprocessor.')]
