"""The decorator that makes a loss function usable from a config, and the two kinds of losses.

``@loss_module('HintLoss')`` registers a module, so that ``loss=dict(type='HintLoss')`` is a config.
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.registry import MODELS

F = TypeVar('F', bound=Callable[..., Tensor])
Check = Callable[[str, Any], Any]


class FeatureLoss(nn.Module):
    """A loss that compares the outputs of two networks image by image.

    ``forward(student, teacher)`` takes maps (N, C, H, W) or vectors (N, C) and returns a scalar.
    ``FeatureMethod`` takes a loss of this kind. A loss with a state of its own can be a subclass.

    Attributes:
        takes_weights: Whether ``forward`` has a third argument ``weights``: the factor of each
            image in place of 1/N, (N,).
    """

    takes_weights: ClassVar[bool] = False


class RelationLoss(nn.Module):
    """A loss that compares the relations between the images of a batch, such as their distances.

    ``forward(student, teacher)`` takes (N, D_s) and (N, D_t) and returns a scalar.
    ``RelationMethod`` takes a loss of this kind. A loss with a state of its own can be a subclass.
    """


def loss_module(
    name: str, kind: type[nn.Module] = FeatureLoss, /, **checks: Check
) -> Callable[[F], F]:
    """Register a module that multiplies a loss function by ``loss_weight``.

    The decorated function stays as it is. It takes the student's and the teacher's tensor, then its
    hyper-parameters. The arguments of the module are ``loss_weight``, 1.0 unless stated, and these
    hyper-parameters. Further tensors must have a default and a type hint; the module leaves them
    out, but for ``weights``, the factor of each image, which its ``forward`` hands on. The module
    is an attribute ``name`` of the function's file.

    Args:
        name: The name of the module, which is the ``type`` in a config.
        kind: :class:`FeatureLoss` or :class:`RelationLoss`.
        **checks: Functions of a key and a value, such as
            :func:`~mmkd_plugin.errors.positive_number`, by the name of the hyper-parameter. The
            module keeps the value that is returned.

    Returns:
        The decorator.

    Raises:
        TypeError: If the function needs a third tensor or has an argument ``loss_weight``, or a
            check has the name of no hyper-parameter.

    Example:
        >>> from mmkd_plugin.errors import positive_number
        >>> from mmkd_plugin.registry import build_part
        >>> @loss_module('PowerLoss', power=positive_number)
        ... def power_loss(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
        ...     '''Return the mean power of the absolute differences.'''
        ...     return (student - teacher.detach()).abs().pow(power).mean()
        >>> config = dict(type='PowerLoss', loss_weight=10.0, power=3)
        >>> loss = build_part(config, FeatureLoss, 'loss')
        >>> loss
        PowerLoss(loss_weight=10.0, power=3.0)
        >>> import torch
        >>> loss(torch.ones(2, 3), torch.zeros(2, 3))
        tensor(10.)
        >>> build_part(dict(type='PowerLoss', power=0), FeatureLoss, 'loss')
        Traceback (most recent call last):
        mmkd_plugin.errors.ConfigError: loss.power: must be a number > 0 (found 0).
    """

    def register(function: F) -> F:
        module = _module_class(name, kind, function, checks)
        MODELS.register_module(name=name, module=module)
        function.__globals__[name] = module  # pickle finds a class by its module and name
        return function

    return register


def _module_class(
    name: str, kind: type[nn.Module], function: Callable[..., Tensor], checks: dict[str, Check]
) -> type[nn.Module]:
    settings = _hyper_parameters(function)
    names = [one.name for one in settings]
    if unknown := sorted(checks.keys() - set(names)):
        raise TypeError(f'{function.__name__} has no hyper-parameter {", ".join(unknown)}')
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [
            inspect.Parameter('self', positional),
            inspect.Parameter('loss_weight', positional, default=1.0, annotation=float),
            *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in settings),
        ]
    )

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        kind.__init__(self)
        self.loss_weight = non_negative_number('loss_weight', given.arguments['loss_weight'])
        self.settings = {
            key: checks.get(key, _unchecked)(key, given.arguments[key]) for key in names
        }

    def forward(
        self: Any, student: Tensor, teacher: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        given = {} if weights is None else {'weights': weights}
        return self.loss_weight * function(student, teacher, **self.settings, **given)

    def extra_repr(self: Any) -> str:
        values = {'loss_weight': self.loss_weight, **self.settings}
        return ', '.join(f'{key}={value!r}' for key, value in values.items())

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    members = dict(
        __init__=__init__,
        forward=forward,
        extra_repr=extra_repr,
        takes_weights='weights' in inspect.signature(function).parameters,
        __module__=function.__module__,
        __qualname__=name,
        __doc__=_docstring(function, names),
    )
    return type(name, (kind,), members)


def _hyper_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    _, _, *others = inspect.signature(function).parameters.values()
    tensors = [one for one in others if 'Tensor' in str(one.annotation)]
    for one in tensors:
        if one.default is one.empty:
            raise TypeError(f'{function.__name__}: the tensor {one.name} must have a default')
    settings = [one for one in others if one not in tensors]
    if any(one.name == 'loss_weight' for one in settings):
        raise TypeError(f'{function.__name__}: loss_weight must be left to the module')
    return settings


def _unchecked(key: str, value: Any) -> Any:
    return value


def _docstring(function: Callable[..., Any], names: list[str]) -> str:
    summary = (function.__doc__ or f'Call {function.__name__}.').strip().splitlines()[0]
    arguments = [f'    {name}: See :func:`{function.__name__}`.' for name in names]
    return '\n'.join(
        [
            summary,
            '',
            f':func:`{function.__name__}` times ``loss_weight``.',
            '',
            'Args:',
            '    loss_weight: The factor of the loss, a number >= 0.',
            *arguments,
            '',
            'Raises:',
            '    ConfigError: If an argument is out of range.',
        ]
    )
