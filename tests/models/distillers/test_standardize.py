"""Teachers at equal scale: what is measured, saved and left alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.models.distillers.standardize import ChannelScale

TAPS = ('backbone.layer1', 'backbone.layer3')
HINTS = dict(
    hint=dict(
        type='Hint',
        pairs=[dict(student=tap, teacher=tap, index=index) for tap in TAPS for index in (0, 1)],
    )
)


def maps(count: int = 4, seed: int = 0) -> list[Tensor]:
    """Return maps whose channels have means and scales of several orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1e-1, 1.0, 1e2])[:, None, None]
    shift = torch.tensor([1e2, 0.0, -5.0])[:, None, None]
    return [shift + scale * torch.randn(2, 3, 4, 5, generator=generator) for _ in range(count)]


def standardized(values: Tensor, seen: Tensor) -> Tensor:
    """Return values at the scale of those that were seen; an independent reference."""
    rows = seen.double().movedim(1, 0).flatten(1)
    mean, variance = rows.mean(dim=1), rows.var(dim=1, unbiased=False)
    scale = (variance + 1e-6 * variance.mean()).sqrt()
    return ((values.double() - mean[:, None, None]) / scale[:, None, None]).float()


@pytest.mark.parametrize('batches', [1, 2, 4, 9])
def test_mean_and_variance_are_those_of_the_first_batches(batches: int) -> None:
    scale = ChannelScale(3, batches)
    every = maps()
    for number, batch in enumerate(every, start=1):
        found = scale(batch)
        seen = torch.cat(every[: min(number, batches)]).double()
        torch.testing.assert_close(found, standardized(batch, seen), rtol=1e-6, atol=1e-6)
    assert scale.measured == min(batches, 4)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize('shape', [(4, 3), (4, 3, 2, 2)])
def test_form_and_precision_stay(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = torch.rand(shape).to(dtype)
    found = ChannelScale(3, 1)(values)
    assert found.shape == values.shape
    assert found.dtype == dtype


@pytest.mark.parametrize('others', [0.0, 1.0])
def test_constant_channels_become_zero(others: float) -> None:
    values = torch.full((3, 2, 4, 4), 0.1)
    values[:, 1] += others * torch.rand(3, 4, 4)
    found = ChannelScale(2, 1)(values)
    assert found[:, 0].abs().max() < 1e-6
    assert (found[:, 1].abs().max() > 1) == bool(others)


@pytest.mark.parametrize('factor', [1e-6, 1e6])
def test_scale_of_a_teacher_has_no_effect(factor: float) -> None:
    [values, *_] = maps()
    one, other = ChannelScale(3, 1)(values), ChannelScale(3, 1)(values * factor)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_evaluation_measures_nothing() -> None:
    scale, [first, second, *_] = ChannelScale(3, 5), maps()
    assert torch.equal(scale.eval()(first), first), 'nothing is measured yet'
    scale.train()(first)
    state = {name: value.clone() for name, value in scale.state_dict().items()}
    scale.eval()(second)
    assert tiny.differing(state, scale.state_dict()) == []


def test_one_process_after_another_equals_all_at_once() -> None:
    """The state is enough to go on."""
    every, whole, parts = maps(), ChannelScale(3, 3), ChannelScale(3, 3)
    for batch in every:
        expected = whole(batch)
    parts(every[0])
    resumed = ChannelScale(3, 3)
    resumed.load_state_dict(parts.state_dict())
    for batch in every[1:]:
        found = resumed(batch)
    assert torch.equal(found, expected)


def distiller(folder: Path, **changes: Any) -> Distiller:
    teachers = tiny.teachers(folder, 2, standardize=dict(batches=2))
    return ROOT_MODELS.build(
        tiny.distiller_config(folder, **{**dict(teachers=teachers, methods=HINTS), **changes})
    )


def test_all_tapped_maps_of_all_teachers_have_one_scale(tmp_path: Path) -> None:
    teachers = tiny.teachers(tmp_path, 2)
    plain = distiller(tmp_path, teachers=teachers)
    model = distiller(tmp_path, teachers=[dict(one, standardize={}) for one in teachers])
    batch = model.data_preprocessor(tiny.batch_of(), True)
    raw, scaled = plain.observe_teachers(batch), model.observe_teachers(batch)
    for one, other in zip(raw, scaled, strict=True):
        for tap in TAPS:
            expected = standardized(one.feature(tap), one.feature(tap))
            torch.testing.assert_close(other.feature(tap), expected, rtol=1e-5, atol=1e-6)
            spread = other.feature(tap).var(dim=(0, 2, 3), unbiased=False)
            assert (spread > 0.9).float().mean() > 0.7, 'few channels are constant'


def test_teacher_without_the_key_is_as_it_was(tmp_path: Path) -> None:
    teachers = tiny.teachers(tmp_path, 2)
    plain = distiller(tmp_path, teachers=teachers)
    one = distiller(tmp_path, teachers=[teachers[0], dict(teachers[1], standardize={})])
    batch = plain.data_preprocessor(tiny.batch_of(), True)
    before, after = plain.observe_teachers(batch), one.observe_teachers(batch)
    assert not [name for name in plain.state_dict() if 'teacher_scales' in name]
    for tap in TAPS:
        assert torch.equal(before[0].feature(tap), after[0].feature(tap))
        assert not torch.equal(before[1].feature(tap), after[1].feature(tap))
    assert one.teachers[1].standardize == 50


def test_class_scores_stay(tmp_path: Path) -> None:
    methods = dict(HINTS, kd=dict(type='SoftTarget'))
    teachers = tiny.teachers(tmp_path, 2)
    scaled = [dict(one, standardize=dict(batches=1)) for one in teachers]
    found = []
    for given in (teachers, scaled):
        model = distiller(tmp_path, teachers=given, methods=methods)
        [output, _] = model.observe_teachers(model.data_preprocessor(tiny.batch_of(), True))
        found.append(output.scores.logits)
    assert torch.equal(*found)


def test_resumed_run_must_have_the_same_batches(tmp_path: Path) -> None:
    teachers = tiny.teachers(tmp_path, 2)
    saved = distiller(tmp_path, teachers=[dict(one, standardize={}) for one in teachers])
    other = distiller(
        tmp_path, teachers=[dict(one, standardize=dict(batches=3)) for one in teachers]
    )
    with raises_config_error('teachers[0].standardize.batches', 3, '50'):
        other.load_state_dict(saved.state_dict())


@pytest.mark.parametrize(
    ('value', 'key', 'found'),
    [
        (3, 'standardize', 3),
        (dict(batches=0), 'standardize.batches', 0),
        (dict(batch=3), 'standardize.batch', 3),
    ],
)
def test_wrong_values(tmp_path: Path, value: Any, key: str, found: Any) -> None:
    teachers = tiny.teachers(tmp_path, 2, standardize=value)
    with raises_config_error(f'teachers[0] (t0).{key}', found):
        distiller(tmp_path, teachers=teachers)


def test_teacher_without_taps_is_refused(tmp_path: Path) -> None:
    with raises_config_error('teachers[0] (t0).standardize', fix='class scores'):
        distiller(tmp_path, methods=dict(kd=dict(type='SoftTarget')))


def test_methods_that_need_the_own_scale_are_refused(tmp_path: Path) -> None:
    taps = dict(student='backbone.layer3.0.relu2:input', teacher='backbone.layer3.0.relu2:input')
    pair = dict(taps, norm='backbone.layer3.0.bn2')
    with raises_config_error('methods.od', 'Overhaul', fix='standardize'):
        distiller(tmp_path, methods=dict(od=dict(type='Overhaul', pairs=[pair])))
