"""Batches for a teacher that has another view of the samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.views.batches import (
    in_area_of_student,
    pad_value_of,
    require_no_batch_resize,
    resized,
    sizes_of,
    view_of,
)
from mmkd_plugin.views.settings import View, publish_views


@dataclass(frozen=True)
class ViewInputs:
    """The images of one teacher's view.

    Args:
        view: The config key ``view``.
        name: Name of the teacher.
        key: Its config key.
        same_size: Whether the images must have the size of the student's, because class scores are
            compared location by location.
    """

    view: View
    name: str
    key: str
    same_size: bool = False

    def raw(self, data: Any) -> Any:
        """Return the raw batch of the view; that of the student where the view only resizes.

        Raises:
            ConfigError: If the batch has no such view.
        """
        if self.view.size is None:
            return view_of(data, self.name, self.key)
        return {name: data[name] for name in data if name != 'views'}

    def images(
        self,
        preprocess: nn.Module,
        other: Mapping[str, Any],
        raw: Any,
        batch: Mapping[str, Any],
        student_raw: Any,
        augments: Any,
    ) -> Tensor:
        """Return the images in the area of the student's.

        Args:
            preprocess: The preprocessor of the teacher.
            other: The batch that it made of ``raw``.
            raw: The raw batch of the view.
            batch: The batch of the student.
            student_raw: The raw batch of the student.
            augments: The student's batch augmentations.

        Raises:
            ConfigError: If they show another area, or must have the student's size and have not.
        """
        images: Tensor = other['inputs']
        if self.view.size is not None:
            images = resized(images, self.view.size)
        else:
            require_no_batch_resize(augments, self.key)
            images = in_area_of_student(
                images,
                sizes_of(raw),
                batch['inputs'],
                sizes_of(student_raw),
                pad_value_of(preprocess),
                self.key,
            )
        own, found = tuple(batch['inputs'].shape[2:]), tuple(images.shape[2:])
        if self.same_size and own != found:
            raise ConfigError(
                f'{self.key}.view',
                f'must keep the size of the images, {own}, where class scores of a detector are '
                'compared: its locations would be others',
                'Use methods on taps alone, or a view of the same size.',
                found=found,
            )
        return images


def inputs_of_views(teachers: Sequence[Teacher]) -> list[ViewInputs | None]:
    """Return the views of teachers, and tell the training data set of the run what to make.

    A teacher whose outputs are all stored needs no images.
    """
    found = [None if one.stored or one.view is None else one.view for one in teachers]
    publish_views(
        {
            one.name: view
            for one, view in zip(teachers, found, strict=True)
            if view is not None and view.pipeline is not None
        }
    )
    return [
        None if view is None else ViewInputs(view, one.name, one.key, _compares_locations(one))
        for one, view in zip(teachers, found, strict=True)
    ]


def _compares_locations(teacher: Teacher) -> bool:
    compares = teacher.needs_scores or teacher.needs_regions
    return compares and teacher.adapter.task == 'detection'
