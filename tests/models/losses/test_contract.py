"""The contract that every loss keeps. A new loss is one row of the table."""

import copy
import math
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from torch import Tensor, nn

from mmkd_plugin.models import losses
from mmkd_plugin.models.losses import FeatureLoss, RelationLoss
from mmkd_plugin.models.losses.exploration import DISTANCES as EXPLORATION_DISTANCES
from mmkd_plugin.models.losses.factor_distance import DISTANCES as FACTOR_DISTANCES
from mmkd_plugin.registry import build_part

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One loss, with one set of hyper-parameters.

    Args:
        function: The loss.
        inputs: Makes float64 tensors for a number of images: the student's, the teacher's, others.
        wrong: Shapes that the function must refuse.
        arguments: Its hyper-parameters.
        refused: Values that it must refuse, by hyper-parameter.
        module: The name of its module, None if it has none.
        kind: The kind of the module.
        shared: Whether the second tensor receives a gradient as well.
        scale: A factor of the student's tensor; the square of 400 overflows float16.
    """

    function: Callable[..., Tensor]
    inputs: Callable[[int], tuple[Tensor, ...]]
    wrong: tuple[tuple[Shape, ...], ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    module: str | None = None
    kind: type[nn.Module] = FeatureLoss
    shared: bool = False
    scale: float = 400.0

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors, **self.arguments)

    def __str__(self) -> str:
        values = map(str, self.arguments.values())
        return '-'.join([self.function.__name__, self.inputs.__name__, *values])


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def maps(n: int) -> tuple[Tensor, ...]:
    return normal(n, 3, 4, 4), normal(n, 3, 2, 2)


def equal_maps(n: int) -> tuple[Tensor, ...]:
    return normal(n, 3, 4, 4), normal(n, 3, 4, 4)


def maps_of_other_channels(n: int) -> tuple[Tensor, ...]:
    return normal(n, 3, 4, 4), normal(n, 5, 2, 2)


def maps_and_margin(n: int) -> tuple[Tensor, ...]:
    return *maps(n), -normal(3).abs()


def vectors(n: int) -> tuple[Tensor, ...]:
    return normal(n, 5), normal(n, 5)


def embeddings(n: int) -> tuple[Tensor, ...]:
    return normal(n, 5), normal(n, 3)


def few_features(n: int) -> tuple[Tensor, ...]:
    return normal(n, 2), normal(n, 3)


def softmax_targets(n: int) -> tuple[Tensor, ...]:
    return normal(n, 5), normal(n, 5).softmax(dim=1)


def sigmoid_targets(n: int) -> tuple[Tensor, ...]:
    return normal(n, 5), normal(n, 5).sigmoid()


def boxes(n: int) -> tuple[Tensor, ...]:
    corners = normal(2, n, 2)
    sizes = normal(2, n, 2).abs() + 0.5
    return tuple(torch.cat([corners, corners + sizes], dim=2))


def locations(n: int) -> tuple[Tensor, ...]:
    return normal(3 * n, 2).sigmoid(), torch.arange(n).repeat(3), (normal(n, 2) > 0).double()


def labelled(n: int) -> tuple[Tensor, ...]:
    return normal(n, 5), normal(n, 5), torch.arange(n) % 5


NOT_ALIGNED = (
    ((4, 3, 2, 2), (4, 1, 2, 2)),  # would broadcast
    ((4, 3, 2, 2), (4, 5, 4, 4)),
    ((1, 3, 2, 2), (4, 3, 2, 2)),
    ((4, 3, 1, 1), (4, 3)),
    ((4, 3), (4, 1)),
    ((4, 3), (2, 3)),
    ((4, 3, 2), (4, 3, 2)),
)
NOT_MAPS = (*NOT_ALIGNED, ((4, 3), (4, 3)))
NOT_ROWS = (((4, 3), (5, 3)), ((4, 3, 1), (4, 3)), ((4, 3), (4, 3, 1)))
NOT_LOGITS = (((4, 3), (4, 1)), ((2, 3), (2, 4)), ((4,), (4,)))
NOT_LABELLED = tuple((*shapes, (4,)) for shapes in NOT_LOGITS)
NO_FEATURES = (((4, 3), (5, 3)), ((4,), (4, 3)), ((4, 3), (4,)))
NOT_EQUAL = (
    ((4, 3, 2, 2), (4, 1, 2, 2)),  # would broadcast
    ((4, 3, 2, 2), (4, 3, 4, 4)),  # is not pooled: no decoder changes the size
    ((4, 3), (1, 3)),
    ((4, 3, 2), (4, 3, 2)),
)
NO_NUMBER = (0.0, -1.0, math.nan, math.inf, 'one', None, True)
NO_WEIGHT = (-1.0, math.nan, math.inf, 'one', None, True)
NO_WORD = ('l3', '', None, 1)


def cases() -> list[Case]:
    delta, temperature = dict(delta=NO_NUMBER), dict(temperature=NO_NUMBER)
    words = dict(distance=NO_WORD, reduction=NO_WORD)
    relation = dict(kind=RelationLoss)
    fixed = [
        Case(losses.angle_loss, embeddings, NOT_ROWS, {}, delta, 'AngleLoss', **relation),
        Case(losses.distance_loss, embeddings, NOT_ROWS, {}, delta, 'DistanceLoss', **relation),
        Case(losses.cka_loss, maps_of_other_channels, NO_FEATURES, module='CKALoss', **relation),
        Case(losses.cka_loss, few_features, NO_FEATURES, module='CKALoss', **relation),
        Case(losses.linear_cka, maps_of_other_channels, NO_FEATURES, shared=True),
        Case(losses.linear_cka, few_features, NO_FEATURES, shared=True),
        Case(losses.hint_loss, maps, NOT_ALIGNED, module='HintLoss'),
        Case(losses.hint_loss, vectors, NOT_ALIGNED, module='HintLoss'),
        Case(
            losses.dist_loss,
            vectors,
            NOT_LOGITS,
            {},
            dict(temperature=NO_NUMBER, inter_weight=NO_WEIGHT, intra_weight=NO_WEIGHT),
            'DISTLoss',
            scale=2.0,  # a softmax of larger logits has no gradient
        ),
        Case(
            losses.dist_loss,
            vectors,
            NOT_LOGITS,
            dict(activation='sigmoid'),
            dict(activation=NO_WORD),
            'DISTLoss',
            scale=2.0,
        ),
        Case(
            losses.dkd_loss,
            labelled,
            NOT_LABELLED,
            {},
            dict(temperature=NO_NUMBER, alpha=NO_WEIGHT, beta=NO_WEIGHT),
        ),
        Case(
            losses.nkd_loss,
            labelled,
            NOT_LABELLED,
            {},
            dict(temperature=NO_NUMBER, gamma=NO_WEIGHT),
        ),
        Case(
            losses.hard_target_loss,
            vectors,
            NOT_LOGITS,
            dict(min_confidence=0.1),
            dict(min_confidence=(-0.1, 1.0, True, 'high')),
        ),
        Case(losses.pkd_loss, maps, NOT_MAPS, module='PKDLoss'),
        Case(losses.cwd_loss, maps, NOT_MAPS, dict(temperature=2.0), temperature, 'CWDLoss'),
        Case(losses.mgd_loss, maps, NOT_MAPS, module='MGDLoss'),
        Case(losses.logit_mimic_loss, vectors, NOT_LOGITS, module='LogitMimicLoss'),
        Case(losses.binary_quality_loss, vectors, NOT_LOGITS, dict(beta=1.5), dict(beta=NO_NUMBER)),
        Case(losses.localization_loss, vectors, NOT_LOGITS, dict(temperature=2.0), temperature),
        Case(losses.giou_loss, boxes, (((4, 4), (3, 4)), ((4, 3), (4, 3)), ((4,), (4,)))),
        Case(
            losses.attention_transfer_loss,
            maps_of_other_channels,
            (((4, 3, 2, 2), (1, 3, 2, 2)), ((4, 3), (4, 3)), ((4, 3, 2, 2), (4, 3, 2))),
            module='AttentionTransferLoss',
        ),
        Case(
            losses.overhaul_loss,
            maps_and_margin,
            tuple((*shapes, (3,)) for shapes in NOT_ALIGNED),
        ),
        Case(
            losses.presence_loss,
            locations,
            (((3, 2), (2,), (4, 2)), ((3, 2), (3,), (4, 5)), ((3,), (3,), (4, 5))),
            scale=1.0,
        ),
        Case(
            losses.soft_target_kl,
            softmax_targets,
            NOT_LOGITS,
            dict(temperature=2.0),
            temperature,
            shared=True,
        ),
        Case(
            losses.binary_soft_target_kl,
            sigmoid_targets,
            NOT_LOGITS,
            dict(temperature=2.0),
            temperature,
            shared=True,
        ),
    ]
    reconstruction = [
        Case(
            losses.reconstruction_loss,
            equal_maps,
            NOT_EQUAL,
            dict(distance=distance),
            dict(distance=NO_WORD),
        )
        for distance in ('l1', 'l2')
    ]
    factors = [
        Case(losses.factor_distance, inputs, NOT_ALIGNED, dict(distance=d), words, 'FactorDistance')
        for inputs in (maps, vectors)
        for d in FACTOR_DISTANCES
    ]
    explorations = [
        Case(losses.exploration_loss, maps, NOT_ALIGNED, dict(distance=d), words, 'ExplorationLoss')
        for d in EXPLORATION_DISTANCES
    ]
    return [*fixed, *reconstruction, *factors, *explorations]


CASES = cases()
MODULES = [case for case in CASES if case.module]
every_loss = pytest.mark.parametrize('case', CASES, ids=str)
every_module = pytest.mark.parametrize('case', MODULES, ids=str)


def test_table_has_every_loss_and_every_module() -> None:
    functions = {case.function.__name__ for case in CASES}
    helpers = {'factor_cosine', 'overhaul_margin', 'relative_error', 'loss_module'}
    helpers |= {'relation_distance_loss', 'standardize_logits'}
    wrappers = {'FeatureLoss', 'RelationLoss', 'soft_target_loss'}
    assert functions | helpers | wrappers == set(losses.__all__)
    files = {case.function.__module__ for case in CASES}
    modules = {
        name
        for file in files
        for name, value in vars(sys.modules[file]).items()
        if isinstance(value, type) and value.__module__ == file and issubclass(value, nn.Module)
    }
    assert modules == {case.module for case in MODULES}


@every_loss
def test_loss_gradient_reaches_the_student_alone(case: Case) -> None:
    tensors = [x.requires_grad_(x.is_floating_point()) for x in case.inputs(4)]
    case(*tensors).backward()
    student, teacher, *others = tensors
    assert student.grad is not None
    assert student.grad.isfinite().all() and (student.grad != 0.0).any()
    assert (teacher.grad is not None) == case.shared
    assert all(x.grad is None for x in others)


@every_loss
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_loss_of_half_precision_is_computed_in_float32(case: Case, dtype: torch.dtype) -> None:
    student, *others = case.inputs(4)
    others = [x.to(dtype) if x.is_floating_point() else x for x in others]
    student = (case.scale * student).to(dtype).requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = case(student, *others)
    loss.backward()
    wide = [x.float() if x.is_floating_point() else x for x in others]
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert loss.item() == case(student.detach().float(), *wide).item()
    assert student.grad is not None and student.grad.dtype == dtype
    assert student.grad.isfinite().all() and (student.grad != 0.0).any()


@every_loss
def test_loss_of_float64_is_float64(case: Case) -> None:
    assert case(*case.inputs(4)).dtype == torch.float64


@every_loss
def test_loss_of_one_image_is_finite(case: Case) -> None:
    student, *others = case.inputs(1)
    loss = case(student.requires_grad_(), *others)
    loss.backward()
    assert loss.shape == () and loss.isfinite()
    assert student.grad is not None and student.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize('n', [1, 3])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@pytest.mark.parametrize('fill', [0.0, 1.0])
def test_loss_of_constant_inputs_is_finite(
    case: Case, fill: float, dtype: torch.dtype, n: int
) -> None:
    student, teacher, *others = (
        x.to(dtype) if x.is_floating_point() else x for x in case.inputs(n)
    )
    targets = [teacher]
    if teacher.is_floating_point():
        targets += [torch.zeros_like(teacher), torch.ones_like(teacher)]
    for target in targets:
        constant = torch.full_like(student, fill).requires_grad_()
        loss = case(constant, target, *others)
        loss.backward()
        assert loss.isfinite() and loss.dtype == torch.float32
        assert constant.grad is not None and constant.grad.isfinite().all()


@every_loss
def test_loss_of_nan_is_nan(case: Case) -> None:
    for position in (0, 1):
        tensors = case.inputs(4)
        if tensors[position].is_floating_point():
            tensors[position].view(-1)[3] = math.nan
            assert case(*tensors).isnan(), f'tensor {position}'


@every_loss
def test_loss_leaves_its_inputs_as_they_are(case: Case) -> None:
    tensors = case.inputs(4)
    kept = [x.clone() for x in tensors]
    case(*tensors)
    assert all(torch.equal(x, y) for x, y in zip(tensors, kept, strict=True))


@every_loss
def test_loss_of_wrong_shapes_is_refused(case: Case) -> None:
    for shapes in case.wrong:
        with pytest.raises(ValueError, match=f'^{case.function.__name__}: ') as error:
            case(*(torch.zeros(shape) for shape in shapes))
        assert all(f' {shape}' in str(error.value) for shape in shapes[:2]), str(error.value)


@every_loss
def test_loss_of_a_wrong_hyper_parameter_is_refused(case: Case) -> None:
    for key, values in case.refused.items():
        for value in values:
            with raises_config_error(key, value):
                case.function(*case.inputs(4), **{**case.arguments, key: value})


def build(case: Case, **arguments: Any) -> nn.Module:
    return build_part(dict(type=case.module, **arguments), case.kind, 'loss')


@every_module
def test_module_is_the_function_times_its_weight(case: Case) -> None:
    tensors = case.inputs(4)
    torch.testing.assert_close(build(case, **case.arguments)(*tensors), case(*tensors))
    weighted = build(case, loss_weight=2.5, **case.arguments)
    torch.testing.assert_close(weighted(*tensors), 2.5 * case(*tensors))
    assert build(case, loss_weight=0, **case.arguments)(*tensors).item() == 0.0


@every_module
def test_module_survives_pickle_and_deepcopy(case: Case) -> None:
    module, tensors = build(case, loss_weight=2.5, **case.arguments), case.inputs(4)
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert type(twin) is type(module) and repr(twin) == repr(module)
        assert torch.equal(twin(*tensors), module(*tensors))


@every_module
@pytest.mark.parametrize('weight', [-1.0, math.nan, math.inf, '1', None, True])
def test_module_of_a_wrong_weight_is_refused(case: Case, weight: Any) -> None:
    with raises_config_error('loss.loss_weight', weight):
        build(case, loss_weight=weight)


@every_module
def test_module_of_an_unknown_argument_is_refused(case: Case) -> None:
    with raises_config_error('loss.los_weight', 1.0, fix="Did you mean 'loss_weight'?"):
        build(case, los_weight=1.0)


@every_module
def test_module_of_a_wrong_hyper_parameter_is_refused(case: Case) -> None:
    for key, values in case.refused.items():
        for value in values:
            with raises_config_error(f'loss.{key}', value):
                build(case, **{key: value})


@every_module
def test_module_of_the_other_kind_is_refused(case: Case) -> None:
    other = RelationLoss if case.kind is FeatureLoss else FeatureLoss
    with raises_config_error('loss.type', case.module, other.__name__):
        build_part(dict(type=case.module), other, 'loss')
