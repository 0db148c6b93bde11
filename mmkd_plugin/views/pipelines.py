"""The student's pipeline with those of other views behind it, which draw the same geometry."""

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from mmkd_plugin.errors import ConfigError, config_key
from mmkd_plugin.views.geometry import anchors, require_same_geometry, require_same_place
from mmkd_plugin.views.settings import View

#: The entry of a sample, and of a batch, that holds the other views by name.
VIEWS = 'views'


class _Draw(NamedTuple):
    """States of the generators and size of the image before a transform, and its size after."""

    states: tuple[Any, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


class ViewPipelines:
    """Run the student's transforms as they are, then each view's on a copy of the same sample.

    Before the n-th geometric transform of a view, ``random``, ``numpy.random`` and torch's CPU
    generator have the state that they had before the n-th geometric transform of the student. So
    colours may be drawn otherwise, and geometry is not. After all of them the generators are in the
    state in which the student's transforms left them: the student's samples are those of a run
    without views.

    Args:
        pipeline: The student's.
        views: Views by name.

    Raises:
        ConfigError: If a view moves the image by other transforms; see
            :func:`~mmkd_plugin.views.geometry.require_same_geometry`.
    """

    def __init__(self, pipeline: Any, views: Mapping[str, View]) -> None:
        self.pipeline = pipeline
        self._own_draws = tuple({name for view in views.values() for name in view.own_draws})
        #: The pipelines of the views, by name.
        self.branch_pipelines = {name: view.build() for name, view in views.items()}
        for name, compose in self.branch_pipelines.items():
            with config_key(f'views.{name}'):
                require_same_geometry(self.transforms, compose.transforms, self._own_draws)

    @property
    def transforms(self) -> Sequence[Any]:
        """The student's transforms: hooks of the hosts read them."""
        found: Sequence[Any] = self.pipeline.transforms
        return found

    def __call__(self, data: Any) -> Any:
        """Return the student's sample; the others are in its entry ``views``."""
        copies = [copy.deepcopy(data) for _ in self.branch_pipelines]
        sample, draws = self._student(data)
        if sample is None:
            return None
        after = _states()
        try:
            found = {}
            for (name, compose), raw in zip(self.branch_pipelines.items(), copies, strict=True):
                with config_key(f'views.{name}'):
                    found[name] = self._view(compose.transforms, raw, draws)
        finally:
            _set_states(after)
        if not isinstance(sample, dict):
            raise ConfigError('dataset.pipeline', 'must return a dict', found=type(sample).__name__)
        return {**sample, VIEWS: found}

    def _student(self, data: Any) -> tuple[Any, list[_Draw]]:
        places = set(anchors(self.transforms, self._own_draws))
        draws = []
        for number, transform in enumerate(self.transforms):
            if number not in places:
                data = transform(data)
            else:
                states, before = _states(), _size(data)
                data = transform(data)
                draws.append(_Draw(states, before, _size(data)))
            if data is None:
                return None, []
        return data, draws

    def _view(self, transforms: Sequence[Any], data: Any, draws: list[_Draw]) -> Any:
        waiting = iter(draws)
        places = set(anchors(transforms, self._own_draws))
        for number, transform in enumerate(transforms):
            if number not in places:
                data = transform(data)
            else:
                draw, before = next(waiting), _size(data)
                _set_states(draw.states)
                data = transform(data)
                sizes, others = (draw.before, draw.after), (before, _size(data))
                require_same_place(transform, sizes, others)
            if data is None:
                raise ConfigError(
                    'pipeline',
                    'refuses a sample that the pipeline of the student accepts',
                    'Leave FilterAnnotations out of the view: its labels are not used.',
                    found=type(transform).__name__,
                )
        if not isinstance(data, Mapping) or 'inputs' not in data:
            raise ConfigError(
                'pipeline',
                "must end with the host's Pack… transform, which makes "
                'dict(inputs=…, data_samples=…)',
                found=type(transforms[-1]).__name__,
            )
        return data


def _size(data: Any) -> tuple[int, ...]:
    """Return (height, width) of the image in a sample, () if there is none."""
    image = data.get('img') if isinstance(data, Mapping) else None
    if isinstance(image, np.ndarray):
        return image.shape[:2]
    if isinstance(image, torch.Tensor):
        return tuple(image.shape[-2:])
    size = getattr(image, 'size', ())  # Pillow: (width, height)
    return tuple(size)[::-1]


def _states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_states(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
