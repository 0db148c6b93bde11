"""Recorded features, and the channels that a config may state of them."""

from torch import Tensor

from mmkd_plugin.outputs import Knowledge


def feature(knowledge: Knowledge, tap: str) -> Tensor:
    """What ``tap`` recorded.

    Raises:
        ValueError: If it was not recorded.
    """
    if tap not in knowledge.features:
        raise ValueError(
            f'features: expected {tap!r} to be recorded, got {sorted(knowledge.features)}'
        )
    return knowledge.features[tap]


def stated_channels(key: str, stated: int | None, seen: Tensor) -> int:
    """The channels of a map (N, C, H, W) or (N, C), which must be those that the config states, if it does.

    Raises:
        ValueError: If they differ, or the tensor is neither form.
    """
    if seen.ndim not in (2, 4):
        raise ValueError(
            f'{key}: expected a map (N, C, H, W) or features (N, C), the tap gives {tuple(seen.shape)}'
        )
    if stated is not None and stated != seen.shape[1]:
        raise ValueError(
            f'{key}: expected {stated} channels as the config states, the tap gives {tuple(seen.shape)}'
        )
    return int(seen.shape[1])
