"""Tokens of backbones that accept one size of images: the grid that they state."""

from collections.abc import Sequence

from torch import Tensor, nn

from mmkd_plugin.adapters.layout import Layout

#: Parameters (1, tokens, C) that backbones put before the tokens of the patches.
_EXTRA_TOKENS = (
    *('cls_token', 'dist_token', 'distillation_token', 'reg_token', 'register_tokens'),
)
#: Modules that change the order of the tokens (Hiera): no layout shows their positions.
_REORDERING = ('Unroll', 'Reroll')
#: Strides of the stages of hierarchical backbones.
_STRIDES = (4, 8, 16, 32, 64)


def token_layout(model: nn.Module, shape: Sequence[int], size: Sequence[int]) -> Layout | None:
    """Read the grid of patches that a backbone of one size states, or that a stride leaves.

    The axis with as many entries as patches, and leading extra tokens, is that of the tokens. A
    hierarchical backbone states the grid of its first stage alone: the others have that of their
    stride.

    Args:
        model: The network.
        shape: Shape of a tapped tensor.
        size: (height, width) of the images.

    Returns:
        None if no axis fits, or two do, or the network changes the order of its tokens.
    """
    if len(shape) != 3 or any(type(one).__name__ in _REORDERING for one in model.modules()):
        return None
    counts, extras = _token_counts(model)
    by_stride = {(size[0] // stride) * (size[1] // stride) for stride in _STRIDES}
    for possible in (counts, {count for count in by_stride if count > 1}):
        found = {
            Layout((axis,), extra)
            for count in possible
            for extra in extras
            for axis in (1, 2)
            if shape[axis] == count + extra
        }
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _token_counts(model: nn.Module) -> tuple[set[int], set[int]]:
    """Return numbers of patches and of extra tokens as the modules of a network state them."""
    counts = set()
    extras = {0}
    for module in model.modules():
        for name in ('num_extra_tokens', 'num_prefix_tokens'):
            extra = getattr(module, name, None)
            extras |= {extra} if isinstance(extra, int) else set()
        tokens = [getattr(module, name, None) for name in _EXTRA_TOKENS]
        lengths = [one.shape[1] for one in tokens if isinstance(one, Tensor) and one.ndim == 3]
        extras |= {sum(lengths), *lengths}
        for name in ('init_out_size', 'patch_resolution', 'patches_resolution', 'grid_size'):
            grid = getattr(module, name, None)
            if isinstance(grid, (tuple, list)) and len(grid) == 2:
                counts.add(int(grid[0]) * int(grid[1]))
        patches = getattr(module, 'num_patches', None)
        counts |= {patches} if isinstance(patches, int) else set()
    return counts, extras
