"""``loss_module``: from a function to a loss that a config can name."""

import copy
import inspect
import math
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers.errors import raises_config_error
from torch import Tensor, nn

from mmkd_plugin.errors import positive_number
from mmkd_plugin.models.losses import FeatureLoss, RelationLoss, loss_module
from mmkd_plugin.registry import MODELS, build_part

NAME = 'NewLoss'
CONFIG = dict(type=NAME, root=2)


@pytest.fixture
def new_loss() -> Iterator[Callable[..., Tensor]]:
    """A loss that a user writes: one hyper-parameter must be stated, one need not be."""

    def function(
        student: Tensor,
        teacher: Tensor,
        root: float,
        power: float = 2.0,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return a root of the mean power.

        A second paragraph.
        """
        rows = (student - teacher.detach()).abs().pow(power)
        return (rows if weights is None else weights * rows).mean() ** (1.0 / root)

    assert loss_module(NAME, power=positive_number)(function) is function
    yield function
    del MODELS.module_dict[NAME], globals()[NAME]


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])


def test_new_loss_is_built_from_a_config(
    new_loss: Callable[..., Tensor], pair: tuple[Tensor, Tensor]
) -> None:
    # Differences 1 and 2. Squares 1 and 4, mean 2.5; third powers 1 and 8, mean 4.5.
    module = build_part(CONFIG, FeatureLoss, 'loss')
    assert module(*pair).item() == pytest.approx(math.sqrt(2.5))
    config = dict(type='mmkd_plugin.NewLoss', loss_weight=10, root=2, power=3)
    module = build_part(config, FeatureLoss, 'methods.my.loss')
    assert module(*pair).item() == pytest.approx(10 * math.sqrt(4.5))
    assert new_loss(*pair, root=2.0, weights=torch.tensor([[0.0, 2.0]])).item() == 2.0


@pytest.mark.parametrize('key', ['pwer', 'weights', 'student'])
def test_new_loss_of_an_unknown_key_is_refused(new_loss: Callable[..., Tensor], key: str) -> None:
    with raises_config_error(f'loss.{key}', 3.0, 'loss_weight, root, power.'):
        build_part({**CONFIG, key: 3.0}, FeatureLoss, 'loss')


def test_new_loss_without_a_required_key_is_refused(new_loss: Callable[..., Tensor]) -> None:
    with raises_config_error('loss.root', fix=''):
        build_part(dict(type=NAME), FeatureLoss, 'loss')


@pytest.mark.parametrize('value', [0.0, math.nan, '2'])
def test_new_loss_checks_its_hyper_parameter_when_built(
    new_loss: Callable[..., Tensor], value: float | str
) -> None:
    with raises_config_error('loss.power', value):
        build_part({**CONFIG, 'power': value}, FeatureLoss, 'loss')


def test_new_loss_of_a_misspelt_type_is_refused(new_loss: Callable[..., Tensor]) -> None:
    with raises_config_error('loss.type', 'NewLos', fix=f'{NAME!r}'):
        build_part(dict(type='NewLos'), FeatureLoss, 'loss')


def test_module_keeps_its_arguments_out_of_the_state_dict(
    new_loss: Callable[..., Tensor],
) -> None:
    module = build_part(dict(CONFIG, loss_weight=3), FeatureLoss, 'loss')
    assert repr(module) == 'NewLoss(loss_weight=3.0, root=2, power=2.0)'
    assert not module.state_dict() and not list(module.parameters())


def test_module_signature_has_the_weight_and_the_hyper_parameters(
    new_loss: Callable[..., Tensor],
) -> None:
    module = MODELS.get(NAME)
    assert str(inspect.signature(module)) == (
        '(loss_weight: float = 1.0, *, root: float, power: float = 2.0)'
    )
    assert module(3.0, root=1.0).loss_weight == 3.0
    with pytest.raises(TypeError, match='pwer'):
        module(root=1.0, pwer=2.0)
    with pytest.raises(TypeError, match='root'):
        module()


def test_module_signature_of_a_subclass_is_its_own(new_loss: Callable[..., Tensor]) -> None:
    class Halved(MODELS.get(NAME)):
        def __init__(self, half: float) -> None:
            super().__init__(half / 2, root=1)

    assert list(inspect.signature(Halved).parameters) == ['half']
    assert Halved(4.0).loss_weight == 2.0


def test_module_has_the_file_and_the_text_of_its_function(
    new_loss: Callable[..., Tensor],
) -> None:
    module = MODELS.get(NAME)
    assert globals()[NAME] is module and module.__module__ == new_loss.__module__
    assert module.__name__ == module.__qualname__ == NAME
    documentation = inspect.getdoc(module) or ''
    assert documentation.startswith('Return a root of the mean power.\n\n:func:`function` times')
    assert all(f'    {name}: ' in documentation for name in ('loss_weight', 'root', 'power'))
    assert 'weights' not in documentation


def test_module_survives_pickle_and_deepcopy(
    new_loss: Callable[..., Tensor], pair: tuple[Tensor, Tensor]
) -> None:
    module = build_part(CONFIG, FeatureLoss, 'loss')
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(twin(*pair), module(*pair))


def test_loss_module_recognises_tensors_by_a_type_hint_in_quotes() -> None:
    def function(student: Tensor, teacher: Tensor, mask: 'Tensor | None' = None) -> Tensor:
        raise NotImplementedError

    loss_module(NAME)(function)
    try:
        assert list(inspect.signature(MODELS.get(NAME)).parameters) == ['loss_weight']
    finally:
        del MODELS.module_dict[NAME], globals()[NAME]


def test_loss_module_refuses_what_no_method_can_call() -> None:
    def third_tensor(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
        raise NotImplementedError

    def own_weight(student: Tensor, teacher: Tensor, loss_weight: float = 1.0) -> Tensor:
        raise NotImplementedError

    def plain(student: Tensor, teacher: Tensor) -> Tensor:
        raise NotImplementedError

    with pytest.raises(TypeError, match='third_tensor: the tensor margin'):
        loss_module(NAME)(third_tensor)
    with pytest.raises(TypeError, match='own_weight: loss_weight'):
        loss_module(NAME)(own_weight)
    with pytest.raises(TypeError, match='plain has no hyper-parameter delta'):
        loss_module(NAME, delta=positive_number)(plain)
    with pytest.raises(KeyError, match='HintLoss is already registered'):
        loss_module('HintLoss')(plain)
    assert NAME not in MODELS.module_dict and 'HintLoss' not in globals()


def test_loss_with_a_state_can_be_a_subclass_of_a_kind() -> None:
    class Stateful(RelationLoss):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            return self.scale * (student - teacher).square().mean()

    assert isinstance(build_part(dict(type=Stateful), RelationLoss, 'loss'), Stateful)
    with raises_config_error('loss.type', Stateful, 'FeatureLoss'):
        build_part(dict(type=Stateful), FeatureLoss, 'loss')
