"""Scales of teachers in two gloo processes are those of one process with the whole batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import processes

pytestmark = pytest.mark.slow


def scales(folder: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the scales after three batches, two of which are measured."""
    model = processes.build(config)
    for count in (4, 8, 6):
        raw = processes.share(tiny.batch_of(count))
        model.observe_teachers(model.data_preprocessor(raw, True))
    return model.teacher_scales.state_dict()


def test_two_processes_measure_what_one_measures(tmp_path: Path) -> None:
    pairs = [dict(student='backbone.layer1', teacher='backbone.layer1')]
    config = tiny.distiller_config(
        tmp_path,
        teachers=tiny.teachers(tmp_path, 1, standardize=dict(batches=2)),
        methods=dict(hint=dict(type='Hint', pairs=pairs)),
    )
    alone = scales(tmp_path, config)
    one, other = (
        rank['scales'] for rank in processes.in_two(tmp_path, dict(scales=(scales, config)))
    )
    assert tiny.differing(one, other) == []
    assert processes.excess(one, alone, rtol=1e-6, atol=1e-9) <= 1
    assert one['0.0.measured'] == 2
    assert one['0.0.count'] == 12 * 64
