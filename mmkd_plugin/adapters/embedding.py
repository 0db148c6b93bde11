"""The embedding of a network: one vector or one map an image, from which its scores are made."""

from collections.abc import Iterator, Sequence

from torch import nn

from mmkd_plugin.adapters.dry_run import REFUSALS
from mmkd_plugin.adapters.probe import dry_run, find_shape
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.errors import ConfigError


def find_embedding(network: TappedModel, probe_shape: Sequence[int] | None) -> str:
    """Return the tap of a network's embedding, a map (N, C, H, W) or a vector (N, C).

    It is the last output of the backbone, or else the input of the head or of the last linear
    layer.

    Args:
        network: The network; it stays as it was.
        probe_shape: (channels, height, width) of an input that it accepts; None to find one.

    Raises:
        ConfigError: If none of these is a map or a vector.
    """
    shape = find_shape(network, probe_shape)
    candidates = list(_candidates(network.model))
    for tap in candidates:
        trial = TappedModel(network.model, network.key)
        trial.adapter = network.adapter
        try:
            trial.request([tap])
            feature = dry_run(trial, shape).feature(tap)
        except REFUSALS:
            continue
        if feature.ndim in (2, 4) and feature.shape[0] > 1:
            return tap
    raise ConfigError(
        'embedding_tap',
        f'is not stated, and {network.key} has no embedding at {", ".join(candidates) or "all"}',
        'Name a tap that returns a map (N, C, H, W) or a vector (N, C).',
        found=None,
    )


def _candidates(model: nn.Module) -> Iterator[str]:
    if hasattr(model, 'backbone'):
        yield from ('backbone[-1]', 'backbone[-1][-1]', 'backbone[-1][0]')
    if isinstance(getattr(model, 'head', None), nn.Module):
        yield from ('head:input[0][-1]', 'head:input[0][-1][0]')
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if linear:
        yield f'{linear[-1]}:input'
