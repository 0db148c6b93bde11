"""The files of this package that one training step enters, so that a reader finds its way."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from helpers import classification as tiny
from helpers import detection as small
from mmengine.optim import OptimWrapper
from torch.optim import SGD

import mmkd_plugin

PACKAGE = Path(mmkd_plugin.__file__).parent
HINT = dict(type='Hint', pairs=[dict(student='neck[0]', teacher='neck[0]')])


def files_of(function: Callable[[], Any]) -> set[str]:
    """Return the files of this package whose functions a call runs, without the backbones'."""
    found: set[str] = set()

    def enter(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == 'call' and path.is_relative_to(PACKAGE):
            found.add(path.relative_to(PACKAGE).as_posix())

    previous = sys.getprofile()
    sys.setprofile(enter)
    try:
        function()
    finally:
        sys.setprofile(previous)
    return {file for file in found if not file.startswith('models/backbones/')}


def files_of_a_step(model: Any, batch: Callable[[], dict[str, Any]]) -> set[str]:
    """Return the files of the second step: checks of the first batch are over."""
    optimizer = OptimWrapper(SGD(model.train().parameters(), lr=0.01))
    model.train_step(batch(), optimizer)
    raw = batch()
    return files_of(lambda: model.train_step(raw, optimizer))


def detector_files(folder: Path, **methods: Any) -> set[str]:
    config = small.detector('gfl')
    model = small.distiller(folder, config, methods=dict(kd=dict(type='SoftTarget'), **methods))
    return files_of_a_step(model, lambda: small.batch_for('gfl'))


def test_step_of_soft_target_on_a_classifier_enters_seven_files(tmp_path: Path) -> None:
    files = files_of_a_step(tiny.distiller(tmp_path), tiny.batch_of)
    assert {'models/distillers/distiller.py', 'models/methods/soft_target.py'} < files
    assert len(files) <= 7, '\n'.join(sorted(files))


def test_step_of_soft_target_on_a_detector_enters_nine_files(tmp_path: Path) -> None:
    files = detector_files(tmp_path)
    assert {'models/distillers/distiller.py', 'adapters/dense_detector.py'} < files
    assert len(files) <= 9, '\n'.join(sorted(files))


def test_step_with_another_method_enters_more_files(tmp_path: Path) -> None:
    """The control: the profile sees what a step enters."""
    alone, with_hint = detector_files(tmp_path), detector_files(tmp_path, hint=HINT)
    assert alone < with_hint
    assert {'models/methods/hint.py', 'models/losses/hint.py'} <= with_hint - alone


def test_first_step_enters_more_files_than_later_ones(tmp_path: Path) -> None:
    """Checks that can only change once run on the first batch alone."""
    model = tiny.distiller(tmp_path)
    optimizer = OptimWrapper(SGD(model.train().parameters(), lr=0.01))
    first, later = (
        files_of(lambda: model.train_step(tiny.batch_of(), optimizer)) for _ in range(2)
    )
    assert 'adapters/compat.py' in first - later
