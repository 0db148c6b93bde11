"""What several networks predict of one raw batch, each by itself and all together."""

import copy
from collections.abc import Mapping
from typing import Any

from mmkd_plugin.adapters import Host
from mmkd_plugin.loading.peer_entries import ENSEMBLE


def answers(networks: Mapping[str, Any], hosts: Mapping[str, Host], data: Any) -> dict[str, Any]:
    """Predictions as the framework's evaluator wants them, by peer; under ``'ensemble'`` their mean, where they have one.

    Args:
        networks: In eval mode, by name.
        hosts: Theirs.
        data: From the data loader. Every network gets a copy: frameworks write their predictions into it.
    """
    found = {name: network.val_step(copy.deepcopy(data)) for name, network in networks.items()}
    if all(host.can_average for host in hosts.values()):
        found[ENSEMBLE] = next(iter(hosts.values())).average(list(found.values()))
    return found
