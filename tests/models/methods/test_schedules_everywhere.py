"""Every number of every method may be a schedule; a new method is covered as well."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from mmengine.logging import MessageHub

from mmkd_plugin.models import methods as room
from mmkd_plugin.models.methods import Method
from mmkd_plugin.registry import MODELS

PAIRS: dict[str, Any] = dict(pairs='last')
#: Keys that a method needs beside its defaults.
NEEDED: dict[str, dict[str, Any]] = {
    'AMTMLKD': dict(student_groups='stages', mapping=[2, 1]),
    'AttentionTransfer': PAIRS,
    'CWD': PAIRS,
    'FGD': dict(pairs='neck'),
    'FeatureMethod': dict(PAIRS, loss=dict(type='HintLoss'), connector=dict(type='HintRegressor')),
    'GroupHints': dict(student_groups='stages', mapping=[2, 1]),
    'Hint': PAIRS,
    'IEKD': dict(PAIRS, knowledge='attention'),
    'MGD': PAIRS,
    'PKD': PAIRS,
    'RelationMethod': dict(loss=dict(type='DistanceLoss'), tap='neck'),
}
ON_DETECTORS = ('BCKD', 'CrossKD', 'FGD', 'LD')
#: They need files or norms of a teacher; their one number is the weight of ``PairedMethod``.
LEFT_OUT = ('FactorTransfer', 'Overhaul')
#: Numbers whose default depends on other keys.
OTHERS = (('CWD', 'temperature', 1.0), ('CWD', 'loss_weight', 10.0))


def cases() -> Iterator[tuple[str, str, float]]:
    for name in room.__all__:
        kind = getattr(room, name)
        if not (isinstance(kind, type) and issubclass(kind, Method)) or name in LEFT_OUT:
            continue
        if MODELS.get(name) is not kind:  # a template
            continue
        for key, parameter in inspect.signature(kind).parameters.items():
            if isinstance(parameter.default, float):
                yield name, key, parameter.default


CASES = [*cases(), *OTHERS]


def test_cases_are_of_every_registered_method() -> None:
    assert len({name for name, _, _ in CASES}) >= 18 and len(CASES) >= 40


@pytest.mark.parametrize(('name', 'key', 'default'), CASES)
def test_number_may_be_a_schedule(name: str, key: str, default: float, tmp_path: Path) -> None:
    hub = MessageHub.get_current_instance()
    for info, value in dict(iter=1, epoch=0, max_epochs=3).items():
        hub.update_info(info, value)
    ends = dict(start=default, stop=0.8 * default, end=2, by_epoch=False)  # 0.9 in step 1
    found = {}
    for how, number in dict(
        scheduled=dict(type='LinearSchedule', **ends), stated=0.9 * default
    ).items():
        torch.manual_seed(0)
        config = dict(m=dict(type=name, **NEEDED.get(name, {}), **{key: number}))
        if name in ON_DETECTORS:
            model = small.distiller(tmp_path, small.detector('gfl'), methods=config).train()
            batch = model.data_preprocessor(small.batch_for('gfl'), True)
            losses = model(**batch, mode='loss')
        else:
            model = tiny.distiller(tmp_path, methods=config, teachers=teachers(tmp_path)).train()
            losses = tiny.losses_of(model)
        found[how] = {k: v.item() for k, v in losses.items() if k.startswith('m.loss')}
    assert found['scheduled'].keys() == found['stated'].keys()
    assert found['scheduled'] == pytest.approx(found['stated'], rel=1e-5)


_TEACHERS: dict[str, Any] = {}


def teachers(folder: Path) -> Any:
    """Return the same teachers for both runs of a test."""
    return _TEACHERS.setdefault(str(folder), tiny.teachers(folder))


def test_ratio_above_its_range_is_refused_as_a_schedule_too(tmp_path: Path) -> None:
    ratio = dict(type='LinearSchedule', start=0.5, stop=1.5, end=2, by_epoch=False)
    methods = dict(m=dict(type='MGD', pairs='last', mask_ratio=ratio))
    with raises_config_error('methods.m.mask_ratio', ANY, '[0, 1)'):
        tiny.distiller(tmp_path, methods=methods)
