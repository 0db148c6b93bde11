"""Teachers with replay: runs equal those without, and need no network once the store is full."""

import copy
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from helpers.replayed import HINT, METHODS, VIEWS, Case, Noisy, no_network
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS

from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.engine.fill_stores import fill_stores
from mmkd_plugin.errors import ConfigError


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.mark.parametrize('name', METHODS)
def test_runs_with_replay_equal_the_run_without_bit_for_bit(name: str, case: Case) -> None:
    methods = METHODS[name]
    teachers = case.teachers if name != 'ie-kd' else case.teachers[:1]
    exact = dict(dtype='float32')
    plain, _ = case.run('plain', None, methods, teachers=teachers)
    filled, model = case.run('filled', exact, methods, teachers=teachers)
    assert not tiny.differing(plain, filled)
    assert not any(one.stored for one in model.teachers)
    with no_network():
        read, model = case.run('read', exact, methods, teachers=teachers)
    assert not tiny.differing(plain, read)
    assert all(one.stored for one in model.teachers)
    assert sum(one.sha256 == other.sha256 for one in model.teachers for other in model.teachers)


def test_workers_and_a_resume_do_not_change_a_run(case: Case) -> None:
    exact = dict(dtype='float32')
    plain, _ = case.run('plain')
    workers, _ = case.run('workers', exact, loader=case.loader(workers=2))
    assert not tiny.differing(plain, workers)
    case.run('cut', exact, epochs=1)
    torch.manual_seed(0)
    model = ROOT_MODELS.build(case.model(exact, METHODS['soft targets and hint']))
    resumed = tiny.runner(model, case.folder / 'cut', resume=True, **case.settings())
    resumed.train()
    assert not tiny.differing(plain, tiny.weights_of(resumed.model))


def test_store_that_is_filled_partly_serves_both_kinds_of_rows(case: Case) -> None:
    exact = dict(dtype='float32')
    plain, _ = case.run('plain')
    case.run('first epoch', exact, epochs=1)
    rest, model = case.run('rest', exact)
    assert not tiny.differing(plain, rest) and not model.teachers[0].stored


def test_half_precision_gives_the_same_run_whether_rows_are_written_or_read(case: Case) -> None:
    written, _ = case.run('written', {})
    read, model = case.run('read', {})
    assert not tiny.differing(written, read)
    summary = model.teachers[0].store.summary()
    assert '48 of 48 rows' in summary and 'probabilities differ by at most' in summary
    plain, _ = case.run('plain')
    assert tiny.differing(plain, read)
    truncation = model.teachers[0].store._store.truncation
    assert 0 < truncation.largest < 2e-3


def test_rows_of_another_network_are_refused_at_the_start(case: Case) -> None:
    """The hash of the file is the same, and the stored outputs are not."""
    case.run('first epoch', dict(dtype='float32'), epochs=1)
    rows = np.memmap(case.folder / 'store0' / 'rows.bin', np.uint8, 'r+')
    marks = np.memmap(case.folder / 'store0' / 'marks.bin', '<u4', 'r+')
    size = len(rows) // len(marks)
    for number in marks.nonzero()[0]:
        row = rows[number * size : (number + 1) * size]
        row[4:20].view('<f4')[:] += 5.0
        marks[number] = zlib.crc32(row) or 1
    with raises_config_error('teachers[0] (t0).replay.path', ANY, 'other outputs', fix='Delete'):
        case.run('second', dict(dtype='float32'))


def test_methods_that_request_less_share_a_store(case: Case) -> None:
    exact = dict(dtype='float32')
    case.run('both', exact)
    less = dict(kd=dict(type='SoftTarget'))
    plain, _ = case.run('plain', None, less)
    with no_network():
        read, _ = case.run('read', exact, less)
    assert not tiny.differing(plain, read)


def test_methods_that_request_more_than_the_store_holds_are_refused(case: Case) -> None:
    case.run('scores', {}, dict(kd=dict(type='SoftTarget')))
    with raises_config_error(
        'teachers[0] (t0).replay.path', ANY, 'backbone.layer2', 'class scores', fix='another path'
    ):
        ROOT_MODELS.build(case.model({}, dict(hint=HINT)))


WRONG: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    'dtype': ('dtype', dict(dtype='float32'), {}),
    'top': ('top', dict(top=4), {}),
    'views of the teacher': ('views', dict(views=5), {}),
    'views of the data': ('views', {}, dict(views=5)),
    'seed': ('seed', {}, dict(seed=1)),
    'pipeline': ('pipeline.scale', {}, dict(scale=3.0)),
    'length': ('pipeline.length', {}, dict(length=8)),
}


@pytest.mark.parametrize('full', [True, False], ids=['full', 'begun'])
@pytest.mark.parametrize('name', WRONG)
def test_store_of_another_run_is_refused_before_the_first_update(
    name: str, full: bool, case: Case
) -> None:
    key, replay, data = WRONG[name]
    case.run('first', {}, epochs=VIEWS if full else 1)
    with raises_config_error(f'teachers[0] (t0).replay.{key}', ANY, fix=''):
        case.run('other', replay, loader=case.loader(**data))


def test_store_of_another_teacher_is_refused(case: Case) -> None:
    case.run('first', {})
    first, second = case.teachers
    file = tiny.checkpoint(case.folder, first['model'], seed=9)
    changed = [dict(first, checkpoint=file), second]
    with raises_config_error('teachers[0] (t0).replay.teacher', ANY, 'store'):
        ROOT_MODELS.build(case.model({}, METHODS['soft targets and hint'], teachers=changed))


@pytest.mark.parametrize(
    ('replay', 'key', 'mentions'),
    [
        (dict(path=''), 'replay.path', 'folder'),
        (dict(path=3), 'replay.path', 'folder'),
        (dict(path='x', view=3), 'replay.view', 'views'),
        ('somewhere', 'replay', 'dict'),
        ({}, 'replay.path', 'missing'),
    ],
    ids=['empty', 'number', 'unknown', 'text', 'nothing'],
)
def test_wrong_key_is_refused_when_the_model_is_built(
    replay: Any, key: str, mentions: str, case: Case
) -> None:
    teachers = [dict(case.teachers[0], replay=replay)]
    model = case.model(None, dict(kd=dict(type='SoftTarget')), teachers=teachers)
    with raises_config_error(f'teachers[0] (t0).{key}', ANY, mentions):
        ROOT_MODELS.build(model)


def test_path_below_a_file_is_refused(case: Case) -> None:
    (case.folder / 'store0').write_text('not a folder')
    with raises_config_error('teachers[0] (t0).replay.path', ANY, 'folder'):
        case.run('run', {})


def test_usual_data_sets_are_refused(case: Case) -> None:
    loader = dict(
        batch_size=8,
        num_workers=0,
        dataset=dict(type='TinyImages'),
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    with raises_config_error('train_dataloader.dataset', ANY, fix='ReplayedDataset'):
        case.run('run', {}, loader=loader)


def test_mixed_batches_are_refused(case: Case) -> None:
    mixed = dict(tiny.preprocessor(), batch_augments=dict(augments=dict(type='Mixup', alpha=0.5)))
    with raises_config_error('data_preprocessor.batch_augments', 'Mixup'):
        ROOT_MODELS.build(case.model({}, dict(kd=dict(type='SoftTarget')), data_preprocessor=mixed))


def test_image_that_changed_stops_the_run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.run('first', {})
    draw = Noisy.__getitem__

    def other(self: Noisy, index: int) -> dict[str, Any]:
        sample = draw(self, index)
        if index == 11:
            sample['inputs'][0, 0, 0] ^= 1
        return sample

    monkeypatch.setattr(Noisy, '__getitem__', other)
    monkeypatch.setattr('mmkd_plugin.replay.manifest.samples_hash', lambda _: _saved_hash(case))
    with raises_config_error('teachers[0] (t0).replay.path', ANY, 'another image'):
        case.run('second', {})


def _saved_hash(case: Case) -> str:
    return str(json.loads((case.folder / 'store0' / 'manifest.json').read_text())['samples'])


@pytest.mark.parametrize(
    'damage',
    [
        lambda folder: (folder / 'manifest.json').write_text('{}'),
        lambda folder: (folder / 'manifest.json').write_text('['),
        lambda folder: (folder / 'probes.json').write_text('[]'),
        lambda folder: (folder / 'probes.json').write_text('{"sizes": {"64x64": 3}}'),
        lambda folder: (folder / 'rows.bin').write_bytes(b''),
    ],
    ids=['empty manifest', 'broken manifest', 'list of probes', 'probe', 'rows'],
)
def test_damaged_store_is_refused_by_name(damage: Callable[[Path], Any], case: Case) -> None:
    case.run('first', {})
    damage(case.folder / 'store0')
    with pytest.raises(ConfigError) as caught:
        case.run('second', {})
    assert str(caught.value).startswith('teachers[0] (t0).replay.')


def test_stored_teacher_is_evaluated_by_its_network(case: Case) -> None:
    case.run('first', {})
    scores = []
    for replay in (None, {}):
        model = ROOT_MODELS.build(case.model(replay, METHODS['soft targets and hint']))
        run = tiny.runner(
            model,
            case.folder / f'evaluated {replay}',
            custom_hooks=[dict(type='mmkd_plugin.EvaluateTeachers')],
            **tiny.validation(),
            **case.settings(epochs=1),
        )
        run.train()
        scores.append(run.model.teacher_scores.tolist())
    assert scores[0] == scores[1]


def test_parameters_that_a_method_asks_for_are_loaded(case: Case) -> None:
    pairs = [dict(student='backbone.layer2', teacher='backbone.layer2.0.conv2', norm='bn2')]
    pairs[0] |= dict(teacher='backbone.layer2', norm='backbone.layer2.0.bn2')
    methods = dict(od=dict(type='Overhaul', pairs=pairs))
    plain, _ = case.run('plain', None, methods, teachers=case.teachers[:1])
    for name in ('filled', 'read'):
        found, model = case.run(name, dict(dtype='float32'), methods, teachers=case.teachers[:1])
        assert not tiny.differing(plain, found)
    assert not model.teachers[0].stored


def test_stores_are_filled_without_training(case: Case) -> None:
    exact = dict(dtype='float32')
    plain, _ = case.run('plain')
    cfg = Config(
        dict(
            model=case.model(exact, METHODS['soft targets and hint']),
            work_dir=str(case.folder / 'filling'),
            default_scope='mmpretrain',
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            **case.settings(),
        )
    )
    lines: list[str] = []
    fill_stores(copy.deepcopy(cfg), views=1, log=lines.append)
    assert '16 of 48 rows' in lines[-1]
    run = TappedModel.observe
    with mock.patch.object(TappedModel, 'observe', autospec=True, side_effect=run) as ran:
        fill_stores(copy.deepcopy(cfg), log=lines.append)
    assert '48 of 48 rows' in lines[-1]
    batches, opened = 2, 2  # the batches of the finished view are compared once
    assert ran.call_count == 2 * batches * (VIEWS - 1) + opened
    with no_network():
        read, _ = case.run('read', exact)
    assert not tiny.differing(plain, read)


def test_config_without_replay_has_no_store_to_fill(case: Case) -> None:
    cfg = Config(
        dict(
            model=case.model(None, METHODS['soft targets and hint']),
            work_dir=str(case.folder / 'filling'),
            default_scope='mmpretrain',
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            **case.settings(),
        )
    )
    with raises_config_error('model.teachers', fix='replay'):
        fill_stores(cfg)
