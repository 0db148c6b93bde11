"""The trained network in the state dict of its wrapper: saved, resumed, and begun with."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.foreign import weights_of
from mmkd_plugin.loading.keys import network_prefixes, part_of
from mmkd_plugin.loading.restore import few
from mmkd_plugin.loading.run_record import require_same
from mmkd_plugin.models.distillers.other_runs import (
    error_of,
    other_methods,
    other_records,
    purpose_of_load,
)


def hold_network(module: nn.Module, child: str, plain: bool = True) -> None:
    """Make the state dict of a module hold exactly what its child's own framework would write.

    - Saved keys of the child are its own, with a prefix. Hooks of some classes return a new state
      dict, which a parent drops; here it counts.
    - A checkpoint of the network alone is loaded into the child. Everything else begins anew.
    - A run with other teachers or methods begins with the student of a checkpoint under
      ``load_from``. Under ``resume`` it is refused, with the names of what differs.

    Args:
        module: A distiller or a peer. Its methods are the child ``methods``.
        child: Name of the child that is trained.
        plain: Whether a checkpoint of the network alone can be loaded.
    """
    module._register_state_dict_hook(partial(_save, child=child))
    module.register_load_state_dict_pre_hook(partial(_load, child=child, plain=plain))


def hold_peers(module: nn.Module) -> None:
    """Save all peers of a module whatever their hooks do, and load no single network into it."""
    for one in (module.get_submodule('peers'), module):
        one._register_state_dict_hook(_save_all)
    module.register_load_state_dict_pre_hook(_require_peers)


def _save(module: nn.Module, state: Any, prefix: str, _: Any, child: str) -> None:
    inside = f'{prefix}{child}.'
    saved = [name for name in state if name.startswith(inside)]
    keep_vars = any(state[name].requires_grad for name in saved)
    own = module.get_submodule(child).state_dict(keep_vars=keep_vars)
    _put_back(module, state, prefix, keep_vars, child)
    if saved == [f'{inside}{name}' for name in own]:
        return
    entries = list(state.items())
    state.clear()  # in place: a parent drops a new dict
    for name, value in entries:
        if not name.startswith(inside):
            state[name] = value
    state.update((f'{inside}{name}', value) for name, value in own.items())


def _save_all(module: nn.Module, state: Any, prefix: str, _: Any) -> None:
    _put_back(module, state, prefix, any(value.requires_grad for value in state.values()))


def _put_back(
    module: nn.Module, state: Any, prefix: str, keep_vars: bool, without: str = ''
) -> None:
    """Save again what a hook inside took out of the whole state dict, as that of LoRA does."""
    module_alone = type(state)()
    module._save_to_state_dict(module_alone, prefix, keep_vars)
    for name, value in module_alone.items():
        state.setdefault(name, value)
    for name, child in module._modules.items():
        if child is not None and name != without:
            for inner, value in child.state_dict(keep_vars=keep_vars).items():
                state.setdefault(f'{prefix}{name}.{inner}', value)


def _load(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    *_: Any,
    child: str,
    plain: bool,
) -> None:
    local = part_of(state, prefix)
    if not local and prefix:
        return  # the run had no peer of this name, which its record states
    inside = f'{child}.'
    own = module.get_submodule(child).state_dict()
    of_run = part_of(local, inside)
    if any(name in own for name in of_run) or not plain:
        _load_run(module, state, prefix, local, child)
    elif plain:
        _load_plain(module, state, prefix, local, own, child)


def _load_run(
    module: nn.Module, state: dict[str, Any], prefix: str, local: Mapping[str, Any], child: str
) -> None:
    """Load the checkpoint of a run, or the trained network alone if the rest is another's."""
    methods = other_methods(module, local)
    records = other_records(module, local)
    purpose = purpose_of_load()
    if purpose == 'resume' or (purpose == 'unknown' and records):
        for name, record in records.items():  # raises with what differs
            require_same(record, dict(local), f'{name}.')
    if methods and purpose == 'resume':
        raise methods.inside(prefix.rstrip('.')) if prefix else methods
    if methods or records:
        problem = methods or error_of(records, local)
        print_log(
            f'load_from: only the weights of {prefix}{child} are loaded, because the checkpoint is '
            f'that of another run: {problem}',
            logger='current',
            level=30,
        )
        _begin_anew(module, state, prefix, child)
        _refuse_resumed(module, child, problem)


def _load_plain(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    local: 'OrderedDict[str, Any]',
    own: Mapping[str, Tensor],
    child: str,
) -> None:
    """Load the checkpoint of the network alone, as its framework would."""
    others = [name for name in module.state_dict() if not name.startswith(f'{child}.')]
    kept = {f'{prefix}{name}': local.pop(name) for name in others if name in local}
    weights = weights_of(local, own, 'the checkpoint', 'load_from')
    fitting = [name for name in weights if name in own]
    if not fitting:
        raise ConfigError(
            'load_from',
            f'holds no weights of the {child}, whose keys are {few(own)}',
            *_other_file(weights),
            found=list(weights)[:3],
        )
    if purpose_of_load() == 'resume':
        raise ConfigError(
            'resume',
            f'needs the checkpoint of a distillation run, but this one holds the {child} alone',
            'Begin a new run with load_from and resume=False.',
        )
    versions = getattr(weights, '_metadata', None) or {}
    known = getattr(state, '_metadata', None)
    if known is not None:  # some heads rename the keys of a file that states no version
        known.update({f'{prefix}{child}.{name}'.rstrip('.'): one for name, one in versions.items()})
    for name in local:
        del state[prefix + name]
    state.update({f'{prefix}{child}.{name}': value for name, value in weights.items()})
    _begin_anew(module, state, prefix, child)
    state.update(kept)  # code of a host that names parameters as in a plain run
    print_log(
        f'load_from: {len(fitting)} of {len(own)} tensors of the {child} are in the checkpoint, '
        'which holds this network alone',
        logger='current',
    )


def _begin_anew(module: nn.Module, state: dict[str, Any], prefix: str, child: str) -> None:
    """Replace all but the trained network by what the module holds already."""
    inside = f'{prefix}{child}.'
    for name in [one for one in state if one.startswith(prefix) and not one.startswith(inside)]:
        del state[name]
    own = module.state_dict()
    state.update(
        {
            f'{prefix}{name}': v.clone()
            for name, v in own.items()
            if not name.startswith(f'{child}.')
        }
    )


def _refuse_resumed(module: nn.Module, child: str, error: ConfigError) -> None:
    """Refuse the first training step if the Runner resumed all the same, as a script can."""

    def check(module: nn.Module, _: Any) -> None:
        if module.training:
            for handle in handles:
                handle.remove()
            if (MessageHub.get_current_instance().get_info('iter') or 0) > 0:
                raise error

    called = module, module.get_submodule(child)  # a peer is called by its network
    handles = [one.register_forward_pre_hook(check) for one in called]


def _require_peers(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    names = [name.removeprefix(prefix) for name in state]
    if not any(name.startswith(('peers.', 'peer_')) for name in names):
        raise ConfigError(
            'load_from',
            'must be the checkpoint of a run of peers, because the model is a MutualDistiller',
            "Peers begin with the weights of single networks by their own key: peers=[dict(name='a'"
            ", model=…, checkpoint='a.pth'), …]. Export the student of a run for it.",
            found=names[:3],
        )


def _other_file(weights: Mapping[str, Any]) -> tuple[str]:
    networks = network_prefixes(weights)
    if networks:
        return (
            f'It is the checkpoint of a run of {", ".join(networks)}. Export one: '
            'python tools/export_student.py CHECKPOINT student.pth '
            f'--network {next(iter(networks))}',
        )
    return (
        'Give a checkpoint of the whole network. Weights of a backbone alone belong under '
        "init_cfg=dict(type='Pretrained', checkpoint=…) of the student's backbone.",
    )
