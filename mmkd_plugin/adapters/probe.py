"""One forward that tells a network's tapped shapes and changes nothing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mmkd_plugin.adapters import Host
from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.outputs import Knowledge

#: Sides that some network of the hosts accepts: small ones first, fixed-size heads (VGG, Inception) last.
_SIDES = (64, 224, 32, 299)


def probe(
    model: nn.Module, host: Host, taps: FeatureTaps, shape: tuple[int, int, int]
) -> Knowledge:
    """Run ``model`` once on zeros of ``shape`` (C, H, W); its modes, BatchNorm statistics and the random state stay as they were."""
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    model.eval()
    try:
        inputs = torch.zeros(1, *shape, device=device)
        with torch.random.fork_rng(devices=[]), torch.no_grad(), taps.record(model) as features:
            host.run(model, inputs, scores=True)
    finally:
        for module, training in modes.items():
            module.training = training
    return host.knowledge(model, features, inputs)


def find_shape(
    model: nn.Module, host: Host, stated: Sequence[int] | None, who: str = 'student'
) -> tuple[int, int, int]:
    """An input shape (C, H, W) that ``model`` runs on: the stated one, or the first of some usual ones.

    Raises:
        ValueError: If the network runs on none of them.
    """
    if stated is not None:
        if len(stated) != 3 or not all(isinstance(side, int) and side > 0 for side in stated):
            raise ValueError(f'probe_shape: expected (channels, height, width), got {stated!r}')
        candidates = [(stated[0], stated[1], stated[2])]
    else:
        first = next(
            (module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3
        )
        # A stem that folds the image (YOLOX's Focus) has more channels than the image.
        sides = (*_own_side(model), *_SIDES)
        candidates = [
            (channels, side, side) for channels in dict.fromkeys((first, 3)) for side in sides
        ]
    nothing = FeatureTaps(model, ())
    failure: Any = None
    for shape in candidates:
        try:
            probe(model, host, nothing, shape)
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            failure = error
        else:
            return shape
    raise ValueError(
        f'probe_shape: expected the (channels, height, width) of an input that the {who} accepts, tried {candidates}: {failure}'
    )


def _own_side(model: nn.Module) -> tuple[int, ...]:
    size = getattr(getattr(model, 'backbone', None), 'img_size', None)
    if isinstance(size, (tuple, list)):
        size = size[0]
    return (size,) if isinstance(size, int) else ()
