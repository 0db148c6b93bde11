"""A wrapper that hosts' hooks and optimizer constructors see as the network inside it."""

from collections.abc import Iterator
from typing import Any, cast

from mmengine.model import BaseModel
from torch import nn

from mmkd_plugin.errors import ConfigError

#: The child that is seen in place of the wrapper.
_INSIDE = 'student'

#: Every model has these, and hooks read those of the wrapper.
_OF_ALL_MODELS = {'data_preprocessor', 'init_cfg', 'training'}


class TransparentModel(BaseModel):
    """A model around a ``student``, for code that was written for the student alone.

    - A subclass reads an attribute that it has not with :meth:`of_student`: ``backbone``,
      ``bbox_head``, ``get_layer_depth``, ``set_epoch``.
    - Parameters and modules of the student have the names of a plain run in
      :meth:`named_parameters`, :meth:`named_modules` and :meth:`named_children`, by which
      optimizer constructors set rates. Keys of checkpoints keep the prefix ``student.``.
    - Validation and test are the student's own.
    """

    student: nn.Module

    def of_student(self, name: str) -> Any:
        """Return an attribute of the student.

        Raises:
            AttributeError: If the student has none of this name either.
        """
        student = self.__dict__.get('_modules', {}).get(_INSIDE)
        if student is None or name.startswith('__'):
            raise AttributeError(f'{type(self).__name__} has no attribute {name!r}')
        try:
            return getattr(student, name)
        except AttributeError:
            raise AttributeError(
                f'neither {type(self).__name__} nor its student {type(student).__name__} has the '
                f'attribute {name!r}'
            ) from None

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the children; the student's name is empty, so paths through it are its own."""
        for name, child in super().named_children():
            yield ('' if child is self._modules.get(_INSIDE) else name), child

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = '', remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield all modules; those of the student have the paths of a plain model."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self.named_children():
            path = '.'.join(part for part in (prefix, name) if part)
            yield from child.named_modules(memo, path, remove_duplicate)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add or replace a child, under its name of :meth:`named_children`."""
        super().add_module(name or _INSIDE, module)

    def val_step(self, data: Any) -> Any:
        """Return the student's predictions for a raw batch."""
        return cast(Any, self.student).val_step(data)

    def test_step(self, data: Any) -> Any:
        """Return the student's predictions for a raw batch."""
        return cast(Any, self.student).test_step(data)

    def require_no_clash(self) -> None:
        """Refuse a student with attributes that would be hidden by those of the wrapper.

        Raises:
            ConfigError: If there is one, or if the student's class has a training step of its own.
        """
        own = (vars(self) | self._modules | self._buffers).keys() - _OF_ALL_MODELS
        for name in sorted(name for name in own if not name.startswith('_')):
            if hasattr(self.student, name):
                raise ConfigError(
                    _INSIDE,
                    f'must have no attribute {name!r}, which the distiller has too: hooks would '
                    'read the wrong one',
                    'Distil a network without it, or the part of it that learns.',
                    found=type(self.student).__name__,
                )
        step = getattr(type(self.student), 'train_step', None)
        if step is not None and step is not BaseModel.train_step:
            raise ConfigError(
                _INSIDE,
                'must be trained by one loss of forward(mode="loss"), but its class has a '
                'train_step of its own',
                'Distil a network that uses the train_step of mmengine.model.BaseModel.',
                found=type(self.student).__name__,
            )
