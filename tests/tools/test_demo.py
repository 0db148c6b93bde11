"""The demo, with two steps in place of thousands."""

import io
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from rich.console import Console

from mmkd_plugin.stages import Stage

DEMO: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / 'tools/demo.py'), run_name='demo')


def shorten(cfg: Config) -> None:
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    cfg.param_scheduler = []
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=20)
        loader.dataset.indices = 20
    for teacher in cfg.model.get('teachers', []):
        teacher.checkpoint = re.sub(r'epoch_\d+', 'epoch_2', teacher.checkpoint)
    for hook in cfg.get('custom_hooks', []):
        hook.pop('min_score', None)


def run(stages: dict[str, Stage]) -> tuple[dict[str, float], str]:
    told = io.StringIO()
    console = Console(file=told, width=200)
    accuracies = DEMO['run'](stages, 2, console)
    console.print(DEMO['table_of'](accuracies))
    return accuracies, told.getvalue()


@pytest.mark.slow
def test_trains_all_tells_all_and_does_nothing_twice(tmp_path: Path) -> None:
    stages = DEMO['load_demo'](tmp_path, shorten)
    accuracies, told = run(stages)
    assert list(stages) == [*DEMO['TEACHERS'], *DEMO['STUDENTS']]
    for name, accuracy in accuracies.items():
        assert json.loads((tmp_path / name / 'tested.json').read_text())['accuracy'] == accuracy
        assert f'{name}: {accuracy:.1f}% of the test images' in told
    for what in (*DEMO['TEACHERS'].values(), *DEMO['STUDENTS'].values()):
        assert what in told
    for name in ('amtml_paper', 'amtml_label'):
        assert (tmp_path / name / 'epoch_2_student.pth').is_file()
        assert list((tmp_path / name).glob('*/vis_data/vis_image/amtml_weights_2.png'))
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.pth')}
    again, _ = run(DEMO['load_demo'](tmp_path, shorten))
    assert again == accuracies
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.pth')} == written


@pytest.mark.slow
def test_a_failure_is_named_with_its_log(tmp_path: Path) -> None:
    def spoil(cfg: Config) -> None:
        shorten(cfg)
        cfg.optim_wrapper.optimizer.lr = -1.0

    with pytest.raises(RuntimeError, match=r'teacher_\d+ failed: .*learning rate.*\n.*demo.log'):
        run(DEMO['load_demo'](tmp_path, spoil))


def test_epochs_are_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / 'demo.log'
    log.write_text('loading\n')
    assert DEMO['last_epoch'](log) == 0
    log.write_text(
        'INFO - Epoch(train)  [9][20/39]  lr: 1\nINFO - Epoch(train) [10][20/39]  lr: 1\nEpoch(val) [10][5/5]\n'
    )
    assert DEMO['last_epoch'](log) == 10
