"""Batches for teachers: what each one's own preprocessing makes of the same raw batch."""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor
from torch import nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.distillers.image_area import SAME_PADDING, in_area_of_run
from mmkd_plugin.models.distillers.view_inputs import ViewInputs
from mmkd_plugin.views.batches import without_views

#: Attributes that decide how labels are written or where tensors live, not what images become.
_NOT_OF_IMAGES = {
    'training', 'batch_augments', '_device', '_non_blocking', 'to_onehot', 'num_classes',
    'boxtype2tensor', 'pad_mask', 'mask_pad_value', 'pad_seg', 'seg_pad_value',
}  # fmt: skip

#: Attributes of hosts' preprocessors that decide the size of a padded batch. Networks that are
#: compared must see the same area of the image, so the run's hold for all of them.
_PADDING = ('pad_size_divisor', 'size_divisor', 'size')


class TeacherInputs(BaseDataPreprocessor):
    """The student's preprocessing, and in training every other one beside it.

    Each other preprocessing runs on a copy of the same raw batch. It has the student's batch
    augmentations (Mixup, CutMix, resizing), in the state and with the random state that the
    student's run had. So it draws the same mixture or size, in its own mean, std, channel order and
    padding. Batch augmentations in a teacher's config are not used: they belong to its training.

    Args:
        student: The student's preprocessor.
        others: One preprocessor for each distinct preprocessing that differs from the student's.
        views: The view of each of them; None for the student's own.
    """

    def __init__(
        self,
        student: nn.Module,
        others: list[nn.Module],
        views: Sequence[ViewInputs | None] = (),
    ) -> None:
        super().__init__()
        self.student = student
        self.others = nn.ModuleList(others)
        self.views = list(views) or [None] * len(others)

    @property
    def batch_augments(self) -> Any:
        """The student's: hooks of the frameworks switch it during training."""
        return self.student.batch_augments

    @batch_augments.setter
    def batch_augments(self, value: Any) -> None:
        self.student.batch_augments = value

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the student's batch; in training also ``teacher_inputs``, one tensor each.

        Raises:
            ConfigError: If an augmentation that cuts boxes (CutMix), or that resizes, meets images
                that another preprocessing pads to another size.
        """
        every, data = data, without_views(data)
        if not training:
            return self.student(data, training)
        state = _random_state()
        copies = [copy.deepcopy(data if v is None else v.raw(every)) for v in self.views]
        # A copy for each: some augmentations remember the size that they drew last.
        augments = [
            copy.deepcopy(getattr(self.student, 'batch_augments', None)) for _ in self.others
        ]
        batch = self.student(data, training)
        if isinstance(batch['inputs'], (list, tuple)):
            raise several_views('teachers', batch['inputs'])
        teacher_inputs = []
        for preprocess, raw, own_augments, view in zip(
            self.others, copies, augments, self.views, strict=True
        ):
            for shared in ('to_onehot', 'num_classes'):
                if hasattr(self.student, shared):
                    setattr(preprocess, shared, getattr(self.student, shared))
            if hasattr(self.student, 'batch_augments'):
                # setattr: torch types attributes of a module as tensors or modules
                setattr(preprocess, 'batch_augments', own_augments)  # noqa: B010
            with _replayed(state):
                other = preprocess(raw, training)
            if not isinstance(other['inputs'], torch.Tensor):
                raise _no_batch(preprocess, other['inputs'])
            if other['inputs'].shape != batch['inputs'].shape:
                _require_same_mixture(batch, other)
            if view is not None:
                shown = view.images(preprocess, other, raw, batch, data, self.batch_augments)
                teacher_inputs.append(shown)
                continue
            _require_same_sizes(batch, other)
            teacher_inputs.append(in_area_of_run(other, batch, data))
        return {**batch, 'teacher_inputs': teacher_inputs}


def share_inputs(
    run: nn.Module,
    preprocessors: Sequence[nn.Module],
    views: Sequence[ViewInputs | None] = (),
) -> tuple[nn.Module, list[int | None]]:
    """Let networks of equal preprocessing share one batch.

    Args:
        run: The student's preprocessor.
        preprocessors: Each network's.
        views: Each network's view; None for the student's.

    Returns:
        The preprocessor of the run, and for each network the index of its batch in
        ``teacher_inputs``; None for the student's batch.
    """
    distinct: list[nn.Module] = []
    of_distinct: list[ViewInputs | None] = []
    numbers: list[int | None] = []
    for own, view in zip(preprocessors, views or [None] * len(preprocessors), strict=True):
        one = copy.deepcopy(own)  # the network is evaluated with its own padding
        for name in _PADDING:
            if hasattr(one, name) and hasattr(run, name):
                setattr(one, name, getattr(run, name))
        if view is None and same_preprocessing(one, run):
            numbers.append(None)
            continue
        equal = (
            n
            for n, (other, its_view) in enumerate(zip(distinct, of_distinct, strict=True))
            if view is its_view is None and same_preprocessing(other, one)
        )
        known = next(equal, len(distinct))
        if known == len(distinct):
            distinct.append(one)
            of_distinct.append(view)
        numbers.append(known)
    return (TeacherInputs(run, distinct, of_distinct) if distinct else run), numbers


def same_preprocessing(one: nn.Module, other: nn.Module) -> bool:
    """Whether two preprocessors make the same images of the same raw batch."""
    if type(one) is not type(other):
        return False
    plain = (bool, int, float, str, tuple, list, type(None))
    values = [
        {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, plain) and name not in _NOT_OF_IMAGES
        }
        for module in (one, other)
    ]
    buffers = [dict(module.named_buffers()) for module in (one, other)]
    return (
        values[0] == values[1]
        and buffers[0].keys() == buffers[1].keys()
        and all(torch.equal(buffers[0][name].cpu(), buffers[1][name].cpu()) for name in buffers[0])
    )


def several_views(key: str, inputs: Sequence[Any]) -> ConfigError:
    """Return the error for a batch of several views of each image, about ``key``."""
    return ConfigError(
        key,
        'must be trained on one view of each image; self-supervised pipelines make several',
        'Use a pipeline without MultiView.',
        found=f'{len(inputs)} views',
    )


def _no_batch(preprocessor: nn.Module, inputs: Any) -> ConfigError:
    return ConfigError(
        'teachers',
        f'must have a data_preprocessor that makes one tensor of the batches of the run, unlike '
        f'{type(preprocessor).__name__}',
        "Set data_preprocessor in the teacher's cfg_options to that of the run, with the teacher's "
        'mean and std.',
        found=type(inputs).__name__,
    )


def _require_same_mixture(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    scores = [
        [sample.gt_score for sample in batch['data_samples'] or () if 'gt_score' in sample]
        for batch in (one, other)
    ]
    if not all(torch.equal(a, b) for a, b in zip(*scores, strict=True)):
        expected, found = (tuple(batch['inputs'].shape) for batch in (one, other))
        raise ConfigError(
            'teachers',
            f"images must be padded to the student's {expected} where boxes are cut from them "
            '(CutMix, ResizeMix)',
            SAME_PADDING,
            found=found,
        )


def _require_same_sizes(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    expected, found = (
        [getattr(sample, 'img_shape', None) for sample in batch.get('data_samples') or ()]
        for batch in (one, other)
    )
    if expected != found:
        raise ConfigError(
            'teachers',
            f"images must have the student's sizes {expected} where the batch is resized "
            '(BatchSyncRandomResize)',
            SAME_PADDING,
            found=found,
        )


def _random_state() -> Mapping[str, Any]:
    return dict(
        python=random.getstate(),
        numpy=np.random.get_state(),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    )


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'])
    if state['cuda'] is not None:
        torch.cuda.set_rng_state(state['cuda'])


@contextmanager
def _replayed(state: Mapping[str, Any]) -> Iterator[None]:
    """Run the body with an earlier random state; restore the present one afterwards."""
    present = _random_state()
    _set_random_state(state)
    try:
        yield
    finally:
        _set_random_state(present)
