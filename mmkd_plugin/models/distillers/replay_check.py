"""Checks of runs whose teachers are replayed, before the first step."""

from collections.abc import Mapping, Sequence

from torch import nn

from mmkd_plugin.adapters.replayed_teacher import ReplayedTeacher
from mmkd_plugin.adapters.shared_locations import SharedLocations
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods import Method
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.replay.refusals import refuse_batch_augments


def require_replayable(
    teachers: Sequence[Teacher], methods: Mapping[str, Method], preprocessor: nn.Module
) -> SharedLocations | None:
    """Refuse a run whose outputs a store cannot hold.

    Args:
        teachers: The teachers of the run, after their probe.
        methods: The methods, by name.
        preprocessor: The data preprocessor of the run.

    Returns:
        The locations that several dense detectors share; None where no store needs them.

    Raises:
        ConfigError: If the run mixes images of a batch, if a method weighs locations that are not
            stored, or if the stores of several dense detectors keep other locations.
    """
    replayed = [one for one in teachers if isinstance(one, ReplayedTeacher)]
    if not replayed:
        return None
    refuse_batch_augments(preprocessor)
    dense = [one for one in teachers if one.needs_scores and one.adapter.task == 'detection']
    keeping = [one for one in replayed if one in dense]
    if not keeping:
        return None
    first = keeping[0]
    for name in ('background', 'locations'):
        for one in keeping[1:]:
            if getattr(one.settings, name) != getattr(first.settings, name):
                raise ConfigError(
                    f'{one.replay_key}.{name}',
                    f'must be that of {first.key}, {getattr(first.settings, name)}: their stores '
                    'keep the same locations',
                    found=getattr(one.settings, name),
                )
    stored = first.settings.background
    for name, method in methods.items():
        for module in method.modules():
            for found in vars(module).values():
                if isinstance(found, LocationWeights) and (
                    found.weighting == 'uniform' or found.background < stored
                ):
                    least = 0.0 if found.weighting == 'uniform' else found.background
                    raise ConfigError(
                        f'methods.{name}.locations',
                        f'counts locations that the store leaves out: it keeps those from '
                        f'{stored} on',
                        f'Write locations=dict(background={stored}), or a lower background of '
                        'replay.',
                        found=least,
                    )
    if len(dense) == 1:
        return None
    shared = SharedLocations(dense, stored)
    for one in keeping:
        one.share_locations(shared)
    return shared
