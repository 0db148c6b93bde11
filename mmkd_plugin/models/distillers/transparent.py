"""A wrapper that hosts' hooks and optimizer constructors see as the network inside it."""

from abc import ABCMeta
from collections.abc import Iterator
from functools import cache
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
      ``bbox_head``, ``get_layer_depth``, ``set_epoch``. After :meth:`become_transparent` such an
      attribute is written there too.
    - Parameters and modules of the student have the names of a plain run in
      :meth:`named_parameters`, :meth:`named_modules` and :meth:`named_children`, by which
      optimizer constructors set rates. Keys of checkpoints keep the prefix ``student.``, and
      tensors under the names of a plain run are loaded into the student.
    - ``isinstance`` finds the classes of the student as well as its own.
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

    def __setattr__(self, name: str, value: Any) -> None:
        if self._belongs_to_student(name):
            setattr(self.student, name, value)
        else:
            super().__setattr__(name, value)

    def _belongs_to_student(self, name: str) -> bool:
        """Whether an attribute that is written is none of the wrapper's own."""
        if not self.__dict__.get('_transparent'):
            return False
        own = self.__dict__, self._parameters, self._buffers, self._modules
        if any(name in held for held in own) or hasattr(type(self), name):
            return False
        return not name.startswith('_') or hasattr(self.student, name)

    def children(self) -> Iterator[nn.Module]:
        """Yield the real children: modes, devices and initial weights reach the student itself."""
        for _, child in super().named_children():
            yield child

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the student's children under their names in a plain run, then the wrapper's own."""
        for name, child in self.student.named_children():
            if name not in self._modules:
                yield name, child
        for name, child in super().named_children():
            if child is not self.student:
                yield name, child

    def named_parameters(
        self, prefix: str = '', recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield all parameters; those of the student have the names of a plain model."""
        if not recurse:  # the student itself is no named child
            yield from self.student.named_parameters(prefix, False, remove_duplicate)
        yield from super().named_parameters(prefix, recurse, remove_duplicate)

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
        for name, child in super().named_children():
            inner = '' if child is self.student else name
            path = '.'.join(part for part in (prefix, inner) if part)
            yield from child.named_modules(memo, path, remove_duplicate)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add or replace a child, under its name of :meth:`named_children`."""
        if name not in self._modules and name in self.student._modules:
            self.student.add_module(name, module)
        else:
            super().add_module(name, module)

    def val_step(self, data: Any) -> Any:
        """Return the student's predictions for a raw batch."""
        return cast(Any, self.student).val_step(data)

    def test_step(self, data: Any) -> Any:
        """Return the student's predictions for a raw batch."""
        return cast(Any, self.student).test_step(data)

    def become_transparent(self) -> None:
        """End construction: from here on attributes are written where a plain run has them.

        Raises:
            ConfigError: If the wrapper hides an attribute of the student, or if the student's
                class has a training step of its own.
        """
        self._require_no_clash()
        self._transparent = True
        own: Any = type(self)  # mypy takes no class for hashable here
        inside: Any = type(self.student)
        self.__class__ = _also(own, inside)

    def __reduce__(self) -> tuple[Any, ...]:
        """Name the class that can be imported: the present one is made for the student."""
        own = type(self).__mro__[1] if self.__dict__.get('_transparent') else type(self)
        return _unpickled, (own, type(self.student)), self.__dict__

    def _require_no_clash(self) -> None:
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


@cache
def _also(wrapper: Any, student: Any) -> Any:
    """Return the wrapper's class, in a form that ``isinstance`` finds to be the student's too."""
    seen = type(wrapper)(wrapper.__name__, (wrapper,), {'__module__': wrapper.__module__})
    if isinstance(student, ABCMeta):  # every class of MMEngine
        student.register(seen)
    return seen


def _unpickled(wrapper: Any, student: Any) -> nn.Module:
    """Return a wrapper without state, which pickle fills."""
    seen: Any = _also(wrapper, student)
    blank: nn.Module = seen.__new__(seen)
    return blank
