"""Checks of runs whose teachers are replayed, before the first step."""

from collections.abc import Mapping, Sequence

from torch import nn

from mmkd_plugin.adapters.replayed_teacher import ReplayedTeacher
from mmkd_plugin.adapters.shared_locations import SharedLocations
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods import Method, Requests
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.replay.refusals import refuse_batch_augments


def require_replayable(
    teachers: Sequence[Teacher],
    methods: Mapping[str, Method],
    requests: Mapping[str, Requests],
    preprocessor: nn.Module,
) -> SharedLocations | None:
    """Refuse a run whose outputs a store cannot hold.

    Args:
        teachers: The teachers of the run, after their probe.
        methods: The methods, by name.
        requests: Their requests, by name.
        preprocessor: The data preprocessor of the run.

    Returns:
        The locations that several dense detectors share; None where no store needs them.

    Raises:
        ConfigError: If the run mixes images of a batch, if a method reads locations that are not
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
        if requests[name].scores or requests[name].boxes:
            _require_kept(name, method, stored)
    if len(dense) == 1:
        return None
    shared = SharedLocations(dense, stored)
    for one in keeping:
        one.share_locations(shared)
    return shared


def _require_kept(name: str, method: Method, stored: float) -> None:
    """Refuse a method that reads locations which a store leaves out.

    Args:
        name: Name of the method.
        method: The method, which reads class scores or boxes.
        stored: Probability from which the store keeps a location.
    """
    found = [
        value
        for module in method.modules()
        for value in vars(module).values()
        if isinstance(value, LocationWeights)
    ]
    whole = any(getattr(one, 'reads_every_location', False) for one in method.modules())
    if whole or not found:
        raise ConfigError(
            f'methods.{name}.type',
            'reads every location, and a store keeps those alone where a teacher is confident',
            'Leave replay out of the teachers, or use SoftTarget, LogitMimic, DIST or AMTMLKD with '
            'its KL.',
            found=type(method).__name__,
        )
    least = min(0.0 if one.weighting == 'uniform' else one.background for one in found)
    if least < stored:
        raise ConfigError(
            f'methods.{name}.locations',
            f'counts locations that the store leaves out: it keeps those from {stored} on',
            f'Write locations=dict(background={stored}), or a lower background of replay.',
            found=least,
        )
