"""Detection methods on a GPU give what they give on the CPU. These tests need a GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.detection import batch_for, detector, distiller, losses_of
from test_cuda import full_precision, on_devices

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')

PAIRS = 'neck'
METHODS: dict[str, dict[str, Any]] = {
    'SoftTarget': dict(type='SoftTarget', temperature=1.0),
    'AMTMLKD': dict(type='AMTMLKD', temperature=1.0, objective='label', student_groups='stages'),
    'Hint': dict(type='Hint', pairs=PAIRS),
    'PKD': dict(type='PKD', pairs=PAIRS),
    'CWD': dict(type='CWD', pairs=PAIRS),
    'CWD, scores': dict(type='CWD', pairs='scores'),
    'DIST': dict(type='DIST'),
    'DIST, cells': dict(type='DIST', rows='cells', locations=dict(weighting='uniform')),
    'AMTMLKD, weighted hints': dict(
        type='AMTMLKD',
        objective='label',
        student_groups='stages',
        soft_target=dict(type='CWD'),
        hint_loss=dict(type='CWDLoss'),
        hint_weighting='image',
    ),
    'MGD': dict(type='MGD', pairs=PAIRS, mask_ratio=0.0),
    'FGD': dict(type='FGD', pairs=PAIRS),
    'BCKD': dict(type='BCKD'),
    'LD': dict(type='LD'),
    'LD, both regions': dict(type='LD', vlr_weight=0.25),
    'CrossKD': dict(type='CrossKD'),
}
in_full_precision = pytest.fixture(autouse=True)(full_precision)


@pytest.mark.parametrize('name', METHODS)
def test_detector_on_gpu_has_the_losses_and_gradients_of_the_cpu(tmp_path: Path, name: str) -> None:
    model = distiller(tmp_path, detector('gfl'), methods=dict(m=METHODS[name]))
    on_cpu, on_gpu = on_devices(model, lambda one: losses_of(one, batch_for('gfl')))
    assert any(key.startswith('m.') and value > 0 for key, value in on_cpu[0].items())
    # MMDet's GFLHead returns boxes in float32.
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-6)
