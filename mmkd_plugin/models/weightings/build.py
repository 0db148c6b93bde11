"""From the config key ``weighting`` to a rule."""

from typing import Any

from mmkd_plugin.errors import config_key
from mmkd_plugin.models.weightings.rules import TeacherWeighting
from mmkd_plugin.registry import MODELS, SCOPE


def build_weighting(config: Any, num_teachers: int, embed_dims: int) -> TeacherWeighting:
    """Build the rule for so many teachers and dimensions.

    Raises:
        ValueError: If the config is no rule, or a wrong one; the message begins with ``weighting``.
    """
    if not isinstance(config, dict) or 'type' not in config:
        raise ValueError(
            f"weighting: expected dict(type='LatentTeacherWeighting', …), got {config!r}"
        )
    complete = {'num_teachers': num_teachers, 'embed_dims': embed_dims, **config, '_scope_': SCOPE}
    try:
        with config_key('weighting'):
            rule = MODELS.build(complete)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'weighting: expected a registered rule and its arguments, got {config!r}: {error}'
        ) from error
    if not isinstance(rule, TeacherWeighting):
        raise ValueError(
            f'weighting.type: expected a rule that weighs teachers, got {config["type"]!r}'
        )
    return rule
