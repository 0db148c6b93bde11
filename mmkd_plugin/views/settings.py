"""The config key ``view`` of a teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dataset import Compose
from mmengine.logging import MessageHub

from mmkd_plugin.errors import ConfigError

#: Entry of MMEngine's message hub, as the Runner publishes ``dataset_meta``.
_PUBLISHED = 'teacher_views'
#: The line to add where batches have no view.
DATASET_LINE = (
    "Write train_dataloader.dataset=dict(type='mmkd_plugin.MultiViewDataset', dataset=…), with the "
    'present data set inside.'
)


class View:
    """Another view of the student's sample, for one teacher.

    Args:
        pipeline: Transforms of the host, from the loaded annotations to ``Pack…``. A
            :class:`~mmkd_plugin.views.dataset.MultiViewDataset` runs them on the student's sample,
            with the student's draws of geometry.
        size: (height, width) to which the preprocessed batch is resized, bilinearly; a number for
            squares. Needs no pipeline.
        own_draws: Classes of random transforms that move nothing in the image, such as a colour
            change of your own: they need no counterpart in the other pipeline.

    Raises:
        ConfigError: If there is not one of ``pipeline`` and ``size``, or the pipeline cannot be
            built.

    Example:
        >>> View(size=32).size
        (32, 32)
    """

    def __init__(
        self,
        pipeline: Sequence[Any] | None = None,
        size: Any = None,
        own_draws: Sequence[str] = (),
    ) -> None:
        if (pipeline is None) == (size is None):
            raise ConfigError(
                '',
                'must have either a pipeline or a size',
                'Write dict(pipeline=[…]) or dict(size=(height, width)).',
                found=[] if size is None else ['pipeline', 'size'],
            )
        self.size = None if size is None else _size(size)
        self.pipeline = pipeline
        self.own_draws = tuple([own_draws] if isinstance(own_draws, str) else own_draws)
        if pipeline is not None:
            self.build()

    def build(self) -> Compose:
        """Build the transforms, in the default scope of the run.

        Raises:
            ConfigError: If they cannot be built; in the words of the host.
        """
        if not isinstance(self.pipeline, (list, tuple)) or not self.pipeline:
            raise ConfigError('pipeline', 'must be a list of transforms', found=self.pipeline)
        for number, transform in enumerate(self.pipeline):
            if isinstance(transform, Mapping) and 'type' not in transform:
                raise ConfigError(
                    f'pipeline[{number}]', 'must be a dict with a "type"', found=transform
                )
            try:
                Compose([_copied(transform)])
            except Exception as error:  # a transform of a user may raise anything
                words = ' '.join(str(error.args[0] if error.args else error).split())
                name = transform.get('type') if isinstance(transform, Mapping) else transform
                raise ConfigError(
                    f'pipeline[{number}]',
                    f'cannot be built by its framework: {words}',
                    'Transforms of another package than that of the run need its prefix, as in '
                    "type='mmpretrain.RandomCrop'.",
                    found=name,
                ) from error
        return Compose([_copied(transform) for transform in self.pipeline])


def publish_views(views: Mapping[str, View]) -> None:
    """Tell the training data set of this run which views its teachers need, by their names."""
    hub = MessageHub.get_current_instance()
    hub.update_info(_PUBLISHED, dict(views), resumed=False)  # not saved in checkpoints


def published_views() -> Mapping[str, View]:
    """Return the views of the teachers of this run; none without a distiller."""
    found = MessageHub.get_current_instance().runtime_info.get(_PUBLISHED)
    return found if isinstance(found, Mapping) else {}


def _size(value: Any) -> tuple[int, int]:
    sides = (value, value) if isinstance(value, int) else value
    if (
        not isinstance(sides, (list, tuple))
        or len(sides) != 2
        or not all(type(side) is int and side > 0 for side in sides)
    ):
        raise ConfigError('size', 'must be (height, width) in pixels', found=value)
    return sides[0], sides[1]


def _copied(config: Any) -> Any:
    """Return a copy of a config's dicts and lists: frameworks write into what they build from."""
    if isinstance(config, Mapping):
        return {key: _copied(value) for key, value in config.items()}
    return type(config)(map(_copied, config)) if type(config) in (list, tuple) else config
