"""Stores that hold what methods read of a map: factors and attention in place of the map."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from helpers.replayed import EXACT, HINT, Case, no_network
from mmengine.hooks import Hook
from mmengine.registry import MODELS as ROOT_MODELS

TAP = 'backbone.layer2'
PAIR = dict(student=TAP, teacher=TAP)
AT = dict(type='AttentionTransfer', pairs=[PAIR])


class Load(Hook):
    """Builds the teacher's network before training, as EvaluateTeachers does."""

    def before_train(self, runner: Any) -> None:
        runner.model.teachers[0].load()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    case = Case(tmp_path)
    del case.teachers[1]
    return case


def paraphraser(case: Case, seed: int = 0) -> str:
    """Save an untrained paraphraser of the teacher."""
    torch.manual_seed(seed)
    trainer = ROOT_MODELS.build(
        dict(
            type='mmkd_plugin.ParaphraserTrainer',
            teacher=case.teachers[0],
            tap=TAP,
            data_preprocessor=tiny.preprocessor(),
        )
    )
    path = case.folder / f'paraphraser{seed}.pth'
    torch.save(dict(state_dict=trainer.state_dict()), path)
    return str(path)


def of_factors(name: str, checkpoint: str) -> dict[str, Any]:
    return dict(type=name, pairs=[dict(PAIR, checkpoint=checkpoint)])


def features_of(case: Case) -> dict[str, list[int]]:
    """Return the shapes in the rows of the store, by feature."""
    row = json.loads((case.folder / 'store0' / 'manifest.json').read_text())['format']
    return row['features']


@pytest.mark.parametrize('name', ['FactorTransfer', 'IEKD'])
def test_factors_are_stored_in_place_of_maps_and_teach_the_same(name: str, case: Case) -> None:
    methods = dict(m=of_factors(name, paraphraser(case)))
    plain, _ = case.run('plain', None, methods)
    filled, _ = case.run('filled', EXACT, methods)
    assert not tiny.differing(plain, filled)
    with no_network():
        read, _ = case.run('read', EXACT, methods)
    assert not tiny.differing(plain, read)
    [(feature, shape)] = features_of(case).items()
    assert feature.startswith(f'{TAP} | factor ')
    assert shape == [6, 4, 4]  # of 12 channels


@pytest.mark.parametrize('method', [AT, dict(type='IEKD', knowledge='attention', pairs=[PAIR])])
def test_attention_is_stored_in_place_of_maps_and_teaches_the_same(
    method: dict[str, Any], case: Case
) -> None:
    plain, _ = case.run('plain', None, dict(m=method))
    case.run('filled', EXACT, dict(m=method))
    with no_network():
        read, _ = case.run('read', EXACT, dict(m=method))
    assert not tiny.differing(plain, read)
    assert features_of(case) == {f'{TAP} | attention': [1, 4, 4]}


def test_map_that_another_method_reads_whole_is_stored_once(case: Case) -> None:
    methods = dict(at=AT, hint=HINT)
    plain, _ = case.run('plain', None, methods)
    case.run('filled', EXACT, methods)
    with no_network():
        read, _ = case.run('read', EXACT, methods)
    assert not tiny.differing(plain, read)
    assert list(features_of(case)) == [TAP]
    only, _ = case.run('attention alone', None, dict(at=AT))
    with no_network():
        found, _ = case.run('attention of the map', EXACT, dict(at=AT))
    assert not tiny.differing(only, found)


def test_store_without_the_map_is_refused_by_a_method_that_reads_it(case: Case) -> None:
    case.run('attention', EXACT, dict(at=AT))
    with raises_config_error('teachers[0] (t0).replay.path', ANY, TAP, fix='another path'):
        ROOT_MODELS.build(case.model(EXACT, dict(hint=HINT)))


def test_factors_of_another_paraphraser_are_refused(case: Case) -> None:
    case.run('one', EXACT, dict(m=of_factors('FactorTransfer', paraphraser(case))))
    other = dict(m=of_factors('FactorTransfer', paraphraser(case, seed=1)))
    with raises_config_error('teachers[0] (t0).replay.path', ANY, 'factor', fix='another path'):
        ROOT_MODELS.build(case.model(EXACT, other))


def test_half_filled_store_is_filled_by_a_run_that_computes_its_rows_alone(case: Case) -> None:
    both = dict(at=AT, ft=of_factors('FactorTransfer', paraphraser(case)))
    case.run('half', EXACT, both, epochs=1)
    with raises_config_error('teachers[0] (t0).replay.path', ANY, 'missing rows', 'factor'):
        ROOT_MODELS.build(case.model(EXACT, dict(at=AT)))
    plain, _ = case.run('plain', None, both)
    rest, _ = case.run('rest', EXACT, both)
    assert not tiny.differing(plain, rest)
    plain, _ = case.run('plain attention', None, dict(at=AT))
    with no_network():
        found, _ = case.run('attention', EXACT, dict(at=AT))
    assert not tiny.differing(plain, found)


def test_teacher_that_is_evaluated_beside_a_full_store_is_read_from_it(case: Case) -> None:
    both = dict(at=AT, ft=of_factors('FactorTransfer', paraphraser(case)))
    case.run('filled', EXACT, both)
    plain, _ = case.run('plain', None, dict(at=AT))
    found, model = case.run('read', EXACT, dict(at=AT), hooks=[Load()])
    assert not model.teachers[0].stored
    assert not tiny.differing(plain, found)


@pytest.mark.parametrize('method', [AT, HINT], ids=lambda one: one['type'])
def test_stored_teacher_is_standardised_as_its_network(method: Any, case: Case) -> None:
    case.teachers[0]['standardize'] = dict(batches=2)
    methods = dict(m=method)
    plain, _ = case.run('plain', None, methods)
    filled, _ = case.run('filled', EXACT, methods)
    assert not tiny.differing(plain, filled)
    with no_network():
        read, _ = case.run('read', EXACT, methods)
    assert not tiny.differing(plain, read)
    assert list(features_of(case)) == [TAP]  # the whole map is scaled
    assert plain['teacher_scales.0.0.measured'] == 2


def test_stored_teacher_has_its_view(case: Case) -> None:
    methods = dict(at=AT)
    case.teachers[0]['view'] = dict(size=(16, 16))
    plain, _ = case.run('plain', None, methods)
    case.run('filled', EXACT, methods)
    with no_network():
        read, _ = case.run('read', EXACT, methods)
    assert not tiny.differing(plain, read)
    case.teachers[0]['view'] = dict(size=(32, 32))
    with raises_config_error('teachers[0] (t0).replay.teacher_config', ANY, fix='another path'):
        ROOT_MODELS.build(case.model(EXACT, methods))
