"""Tensors of a checkpoint that a model has no place for: a whole absent part, or another model."""

import re
from collections.abc import Iterable

from torch import nn

_ABSENT = object()
_NUMBERED = re.compile(r'(.*\D)\d+')
#: Buffers that training fills, in all normalisation layers of torch.
RUNNING_STATISTICS = ('running_mean', 'running_var')


def show_another_model(model: nn.Module, keys: Iterable[str]) -> list[str]:
    """Return the unexpected keys which show that the file belongs to a model of another structure.

    Without their tensors the model computes something else than the one that was trained:

    - another member of a stack (``layer1.2``), or of a numbered series (``layer5`` after
      ``layer4``): the network in the file is deeper
    - a part inside a member of a stack (``layer1.0.se``)
    - a part or parameter that the model has switched off (``conv1.bias``, ``downsample``)
    - running statistics of a layer that has none

    All others belong to a whole part that the model does not have, such as the mask head of a
    Mask R-CNN in a Faster R-CNN, or to buffers of another version of its framework.

    Args:
        model: The model.
        keys: Keys that its ``load_state_dict`` did not expect.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> show_another_model(model, ['0.bias', '1.weight', 'mask_head.weight'])
        ['0.bias', '1.weight']
    """
    return [key for key in keys if _shows_another_model(model, key)]


def _shows_another_model(model: nn.Module, key: str) -> bool:
    *path, leaf = key.split('.')
    module, in_stack = model, False
    for name in path:
        child = module._modules.get(name)
        if child is None:
            off = module is not model and getattr(module, name, _ABSENT) is None
            return in_stack or off or _is_member(module, name)
        in_stack = in_stack or name.isdigit()
        module = child
    return leaf in RUNNING_STATISTICS or getattr(module, leaf, _ABSENT) is None


def _is_member(module: nn.Module, name: str) -> bool:
    """Return whether ``name`` would be one more member of a stack or a numbered series."""
    if name.isdigit():
        return isinstance(module, (nn.Sequential, nn.ModuleList)) or any(
            other.isdigit() for other in module._modules
        )
    series = _NUMBERED.fullmatch(name)
    others = map(_NUMBERED.fullmatch, module._modules)
    return series is not None and any(one and one[1] == series[1] for one in others)
