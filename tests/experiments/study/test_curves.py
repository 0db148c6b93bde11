import math
from pathlib import Path

import pytest
from experiments.study.curves import Curve, band, bands, history, read_records

TRAINING = {'loss': 2.0, 'lr': 0.1, 'time': 0.3, 'data_time': 0.1, 'memory': 7}


def test_read_records_cut_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / 'scalars.json'
    path.write_text('{"loss": NaN, "step": 1}\n{"loss": 2.0, "step": 2}\n{"loss": 1.')
    first, second = read_records(path)
    assert math.isnan(first['loss'])
    assert second == {'loss': 2.0, 'step': 2}


def test_history_by_epoch_has_validation_by_epoch() -> None:
    found = history(
        [
            {**TRAINING, 'epoch': 1, 'iter': 50, 'step': 50},
            {'top1': 60.0, 'time': 0.2, 'step': 1},
            {**TRAINING, 'loss': 1.0, 'epoch': 2, 'iter': 100, 'step': 100},
            {'top1': 70.0, 'time': 0.2, 'step': 2},
            {'top1': 70.5, 'time': 0.2, 'step': 2},  # again, after the training
        ]
    )
    assert found.training == {'loss': {50: 2.0, 100: 1.0}, 'lr': {50: 0.1, 100: 0.1}}
    assert found.validation == {'top1': {1: 60.0, 2: 70.5}}
    assert found.unit == 'epoch'


@pytest.mark.parametrize('steps', [(50, 100), (0, 0), (1, 2)])
def test_history_by_iteration_has_validation_by_iteration(steps: tuple[int, int]) -> None:
    """The step of a validation is the iteration, or an epoch with MMEngine's default logger."""
    first, second = steps
    found = history(
        [
            {**TRAINING, 'iter': 50, 'step': 50},
            {'mAP': 0.1, 'step': first},
            {**TRAINING, 'iter': 100, 'step': 100},
            {'mAP': 0.2, 'step': second},
        ]
    )
    assert found.validation == {'mAP': {50: 0.1, 100: 0.2}}
    assert found.unit == 'iteration'


def test_history_epoch_in_the_log_and_validation_by_iteration_are_told_apart() -> None:
    found = history([{**TRAINING, 'epoch': 1, 'iter': 50, 'step': 50}, {'mAP': 0.1, 'step': 50}])
    assert (found.validation, found.unit) == ({'mAP': {50: 0.1}}, 'iteration')


def test_band_spans_the_seeds_at_the_positions_of_all() -> None:
    runs = [{1: 0.25, 2: 0.5, 3: 0.75}, {1: 0.75, 2: 1.0}, {1: 0.5, 2: 0.0}]
    assert band(runs, scale=100) == Curve(
        x=[1, 2], mean=[50.0, 50.0], low=[25.0, 0.0], high=[75.0, 100.0], n=3
    )


def test_bands_leave_out_what_was_recorded_once() -> None:
    found = bands(
        {
            'plain': [{'loss': {1: 1.0, 2: 0.5}, 'top1': {2: 50.0}}],
            'new': [{'loss': {1: 3.0}, 'top1': {2: 60.0}}, {'loss': {1: 5.0}, 'top1': {2: 60.0}}],
            'not_run': [],
        }
    )
    assert {name: list(curves) for name, curves in found.items()} == {'loss': ['plain', 'new']}
    assert found['loss']['new'] == Curve([1], [4.0], [3.0], [5.0], 2)
