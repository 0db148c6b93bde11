"""Every learner's own instances of the methods."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from mmengine.config import Config

from mmkd_plugin.errors import config_key
from mmkd_plugin.models.distillers.methods import active_methods
from mmkd_plugin.models.distillers.peers import Peer
from mmkd_plugin.models.methods import Method


def methods_of_peers(
    configs: Mapping[str, Mapping[str, Any]], peers: Sequence[Peer], task_weight: float
) -> dict[str, dict[str, Method]]:
    """Build the methods once for each peer, with that peer's changes; those of no weight are left out.

    Args:
        configs: Under the config key ``methods``.
        peers: In order.
        task_weight: Of the peers' own losses.

    Returns:
        By peer and method.

    Raises:
        ValueError: If a config is wrong, a change names no method, or a peer would learn by nothing.
    """
    built: dict[str, dict[str, Method]] = {}
    for peer in peers:
        with config_key(peer.key) if peer.changes else nullcontext():
            built[peer.name] = dict(active_methods(_changed(configs, peer.changes)).items())  # type: ignore[arg-type]
        if not built[peer.name] and not task_weight:
            raise ValueError(
                f'task_weight: expected a number > 0 where no method has a weight, got 0: {peer.key} would not be trained'
            )
    return built


def _changed(configs: Any, changes: Any) -> Any:
    """The methods' configs, with changes merged in as ``--cfg-options`` would be."""
    if not changes or not isinstance(configs, Mapping):
        return configs
    if not isinstance(changes, Mapping) or not changes.keys() <= configs.keys():
        raise ValueError(
            f'methods: expected changes by method, of {list(configs)}, got {changes!r}'
        )
    merged = Config(dict(methods=dict(configs)))
    merged.merge_from_dict(dict(methods=dict(changes)))
    return merged.methods
