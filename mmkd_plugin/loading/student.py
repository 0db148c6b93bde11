"""The student of a distillation config without its teachers, to test, export and inspect it."""

from typing import Any

from mmengine.config import Config
from torch import nn

from mmkd_plugin.errors import ConfigError, one_of
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.config_files import read_config
from mmkd_plugin.loading.peer_entries import peer_entries, peer_entry
from mmkd_plugin.loading.run_model import kind_of, own_names, with_type_names
from mmkd_plugin.registry import SCOPE


def as_student(cfg: Config, name: str | None = None) -> bool:
    """Change a distillation config into that of its student, in place; other configs stay.

    Hooks of this package are removed, because they need teachers.

    Args:
        cfg: The config.
        name: The peer, if the config has several. If it is None, all of them stay, and the weights
            that they began with are not needed.

    Returns:
        Whether it was a distillation config.

    Raises:
        ConfigError: If no network has this name.
    """
    kind = kind_of(cfg.get('model'))
    if kind not in ('student', 'mutual'):
        if name is not None:
            problem = 'must be left out, because the config has one network'
            raise ConfigError('--network', problem, found=name)
        return False
    if kind == 'mutual' and name is None:
        entries = peer_entries(cfg.model.get('peers'))
        cfg.model.peers = [with_type_names({**entry, 'checkpoint': None}) for entry in entries]
        all_peers = {'type': f'{SCOPE}.PeerTestLoop', **(cfg.get('test_cfg') or {})}
        cfg.test_cfg = with_type_names(all_peers)
    else:
        if kind == 'mutual':
            cfg.model.predict = peer_entry(cfg.model.get('peers'), name, '--network')['name']
        else:
            one_of('--network', 'student' if name is None else name, ('student',))
        default = cfg.get('data_preprocessor')
        network = network_config(cfg.model, 'model', data_preprocessor=default)
        cfg.model = with_type_names(network)
        for key in ('val_cfg', 'test_cfg'):
            loop = own_names((cfg.get(key) or {}).get('type'))
            if any(one.startswith('Peer') for one in loop):
                cfg[key].pop('type')
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if not own_names(hook['type'])]
    return True


def network_of(config: str, name: str = 'student') -> nn.Module:
    """Build the student, a teacher or a peer of a config without any weights.

    Args:
        config: A config path, or ``'pkg::path'``.
        name: ``'student'``, or the name of a teacher or a peer. ``'student'`` is the peer that
            predicts if there are several, and the only model of any other config.

    Raises:
        ConfigError: If no network has this name.
    """
    if name == 'student':
        return build_network(network_config(config, 'model'), 'model')
    cfg = read_config(config, 'config')
    kind = kind_of(cfg.get('model'))
    if kind == 'mutual':
        as_student(cfg, name)
        return build_network(cfg.model, name)
    entries: list[dict[str, Any]] = list(cfg.model.get('teachers', [])) if kind == 'student' else []
    teachers = {
        str(entry.get('name', f'teacher{index}')): entry for index, entry in enumerate(entries)
    }
    one_of('--network', name, ['student', *teachers])
    teacher = teachers[name]
    own = teacher.get('data_preprocessor', cfg.get('data_preprocessor'))
    return build_network(
        network_config(teacher['model'], name, teacher.get('cfg_options'), own), name
    )
