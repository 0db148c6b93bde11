"""Refusals of runs whose teachers cannot be replayed, before the first step."""

from collections.abc import Mapping, Sequence

from torch import nn

from mmkd_plugin.adapters.replayed_teacher import ReplayedTeacher
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods import Method
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.replay.refusals import refuse_batch_augments


def require_replayable(
    teachers: Sequence[Teacher], methods: Mapping[str, Method], preprocessor: nn.Module
) -> None:
    """Refuse a run whose outputs a store cannot hold.

    Args:
        teachers: The teachers of the run, after their probe.
        methods: The methods, by name.
        preprocessor: The data preprocessor of the run.

    Raises:
        ConfigError: If the run mixes images of a batch, if a method weighs locations that are not
            stored, or if several dense detectors share the locations.
    """
    replayed = [one for one in teachers if isinstance(one, ReplayedTeacher)]
    if not replayed:
        return
    refuse_batch_augments(preprocessor)
    dense = [one for one in teachers if one.needs_scores and one.adapter.task == 'detection']
    first = next((one for one in replayed if one in dense), None)
    if first is None:
        return
    if len(dense) > 1:
        raise ConfigError(
            first.replay_key,
            'cannot hold the class scores of one of several detectors: each would need the '
            'locations where another one is confident',
            'Use replay with one teacher, or request features alone.',
            found=len(dense),
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
