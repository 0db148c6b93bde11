"""Every teacher sees what its own preprocessor would have made of the raw batch, batch augmentations included."""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor
from torch import nn

#: Attributes that say how labels are written or where tensors live, not what the images become.
_NOT_CONTRACT = {
    'training', 'batch_augments', '_device', '_non_blocking',
    'to_onehot', 'num_classes', 'boxtype2tensor', 'pad_mask', 'mask_pad_value', 'pad_seg', 'seg_pad_value',
}  # fmt: skip


class TeacherInputs(BaseDataPreprocessor):
    """The student's preprocessor, and in training each other input contract beside it.

    A contract is run on a copy of the same raw batch, with the student's batch augmentations (Mixup, CutMix, resizing) in the state,
    and with the random state, that the student's run had: so it draws the same mixture or size, in its own mean, std, channel order
    and padding. Augmentations of its own are no part of a contract: they belong to the training that made the teacher.

    Args:
        student: The student's preprocessor.
        contracts: One preprocessor for each distinct contract that differs from the student's.
    """

    def __init__(self, student: nn.Module, contracts: list[nn.Module]) -> None:
        super().__init__()
        self.student = student
        self.contracts = nn.ModuleList(contracts)

    @property
    def batch_augments(self) -> Any:
        """The student's: hosts' hooks switch it during training."""
        return self.student.batch_augments

    @batch_augments.setter
    def batch_augments(self, value: Any) -> None:
        self.student.batch_augments = value

    def forward(self, data: Any, training: bool = False) -> Any:
        """The student's batch; in training also ``teacher_inputs``, one tensor a contract.

        Raises:
            ValueError: If an augmentation that cuts boxes (CutMix), or that resizes, meets images that a contract pads to another size.
        """
        if not training:
            return self.student(data, training)
        state = _random_state()
        copies = [copy.deepcopy(data) for _ in self.contracts]
        # Each its own: some remember the size that they drew last.
        augments = [
            copy.deepcopy(getattr(self.student, 'batch_augments', None)) for _ in self.contracts
        ]
        batch = self.student(data, training)
        teacher_inputs = []
        for contract, raw, own_augments in zip(self.contracts, copies, augments, strict=True):
            for shared in ('to_onehot', 'num_classes'):
                if hasattr(self.student, shared):
                    setattr(contract, shared, getattr(self.student, shared))
            if hasattr(self.student, 'batch_augments'):
                setattr(contract, 'batch_augments', own_augments)  # noqa: B010  no tensor or module, as torch's types have it
            with _replayed(state):
                other = contract(raw, training)
            if other['inputs'].shape != batch['inputs'].shape:
                _require_same_mixture(batch, other)
            _require_same_places(batch, other)
            teacher_inputs.append(other['inputs'])
        return {**batch, 'teacher_inputs': teacher_inputs}


def share_inputs(
    run: nn.Module, contracts: Sequence[nn.Module]
) -> tuple[nn.Module, list[int | None]]:
    """Let teachers of one input contract share one preprocessed batch.

    Args:
        run: The student's preprocessor.
        contracts: Each teacher's.

    Returns:
        The preprocessor of the run, and for each teacher the number of its batch among ``teacher_inputs``, None for the student's.
    """
    distinct: list[nn.Module] = []
    numbers: list[int | None] = []
    for contract in contracts:
        if same_contract(contract, run):
            numbers.append(None)
            continue
        known = next(
            (number for number, one in enumerate(distinct) if same_contract(one, contract)),
            len(distinct),
        )
        if known == len(distinct):
            distinct.append(contract)
        numbers.append(known)
    return (TeacherInputs(run, distinct) if distinct else run), numbers


def same_contract(one: nn.Module, other: nn.Module) -> bool:
    """Whether two preprocessors make the same images of the same raw batch."""
    if type(one) is not type(other):
        return False
    plain = (bool, int, float, str, tuple, list, type(None))
    values = [
        {
            name: value
            for name, value in vars(m).items()
            if isinstance(value, plain) and name not in _NOT_CONTRACT
        }
        for m in (one, other)
    ]
    buffers = [dict(m.named_buffers()) for m in (one, other)]
    return (
        values[0] == values[1]
        and buffers[0].keys() == buffers[1].keys()
        and all(torch.equal(buffers[0][name].cpu(), buffers[1][name].cpu()) for name in buffers[0])
    )


def _require_same_mixture(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    scores = [
        [s.gt_score for s in batch['data_samples'] or () if 'gt_score' in s]
        for batch in (one, other)
    ]
    if not all(torch.equal(a, b) for a, b in zip(*scores, strict=True)):
        shapes = [tuple(batch['inputs'].shape) for batch in (one, other)]
        raise ValueError(
            f"teachers: expected images padded to the student's {shapes[0]}, where boxes are cut from them (CutMix, ResizeMix), "
            f'got {shapes[1]}: state a data_preprocessor with the same padding'
        )


def _require_same_places(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    sizes = [
        [getattr(s, 'img_shape', None) for s in batch.get('data_samples') or ()]
        for batch in (one, other)
    ]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"teachers: expected images of the student's sizes {sizes[0]}, where the batch is resized (BatchSyncRandomResize), got "
            f'{sizes[1]}: state a data_preprocessor with the same padding'
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
    """Run the body with an earlier random state; afterwards the present one goes on as if nothing had happened."""
    present = _random_state()
    _set_random_state(state)
    try:
        yield
    finally:
        _set_random_state(present)
