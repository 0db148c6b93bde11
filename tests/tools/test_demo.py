"""The demo, with two steps in place of thousands."""

import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from experiments.demo.command import table_of
from experiments.demo.plan import Demo
from experiments.demo.run import run_demo
from experiments.model_zoo.index import Zoo
from mmengine.config import Config
from rich.console import Console

from mmkd_plugin.engine.stages import Stage

ROOT = Path(__file__).parents[2]
TOOL: dict[str, Any] = runpy.run_path(str(ROOT / 'tools/demo.py'), run_name='demo')
DEMO: Demo = TOOL['DEMO']


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
    console = Console(file=told, width=200, soft_wrap=True)
    accuracies = run_demo(DEMO, stages, 2, console)
    console.print(table_of(DEMO, accuracies))
    TOOL['report'](console, stages)
    return accuracies, told.getvalue()


@pytest.mark.slow
def test_demo_trains_and_reports_all_once(tmp_path: Path) -> None:
    stages = DEMO.load(tmp_path, shorten)
    accuracies, told = run(stages)
    assert len(accuracies) == len(stages) == 7 and stages.keys() == accuracies.keys()
    for name, accuracy in accuracies.items():
        assert (
            json.loads((tmp_path / name / 'tested.json').read_text())['metrics']['accuracy/top1']
            == accuracy
        )
        assert f'{name}: {accuracy:.1f}% of the test images' in told
    for training in DEMO.trainings:
        assert training.label in told
    for name in ('student_alone', 'amtml_label'):
        assert (
            f'{accuracies[name]:.1f}%  {accuracies[name] - accuracies["kd_mean"]:+.1f}'
            in re.sub(' +', '  ', told)
        )
    for name in ('amtml_paper', 'amtml_label'):
        assert (tmp_path / name / 'epoch_2_student.pth').is_file()
        (picture,) = (tmp_path / name).glob('*/vis_data/vis_image/amtml_weights_2.png')
        assert f'  {picture}' in told
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.pth')}
    again, _ = run(DEMO.load(tmp_path, shorten))
    assert again == accuracies
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.pth')} == written


@pytest.mark.slow
def test_demo_failed_training_is_named_with_its_log(tmp_path: Path) -> None:
    def spoil(cfg: Config) -> None:
        shorten(cfg)
        cfg.optim_wrapper.optimizer.lr = -1.0

    with pytest.raises(RuntimeError, match=r'teacher_\d+ failed: .*learning rate.*\n.*demo.log'):
        run(DEMO.load(tmp_path, spoil))


def command(*words: str, code: int = 0) -> str:
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_demo_pretrained_prints_the_table_of_the_zoo_and_trains_nothing(tmp_path: Path) -> None:
    demo = (sys.executable, '-W', 'ignore', 'tools/demo.py', '--work-dir', str(tmp_path / 'demo'))
    told = command(*demo, '--pretrained')
    entries = Zoo().entries()
    accuracies = {
        training.name: entries[training.name].metrics['accuracy/top1']
        for training in DEMO.trainings
    }
    console = Console(file=io.StringIO(), width=200, soft_wrap=True)
    console.print(table_of(DEMO, accuracies))
    assert console.file.getvalue() in told  # type: ignore[attr-defined]
    for name, accuracy in accuracies.items():
        assert f'{name}: {accuracy:.1f}% of the test images, ' in told
    assert 'trained before, by: python tools/demo.py\n' in told and 'Done in ' in told
    assert 'the index of the zoo states' not in told
    assert list(tmp_path.rglob('finished.json')) == []
    written = {path.name for path in tmp_path.rglob('*.pth')}
    assert written == {'epoch_50.pth'}
    assert '--work-dir' in command(*demo, code=1)  # no training among networks of the zoo
    again = command(*demo, '--pretrained')
    assert console.file.getvalue() in again  # type: ignore[attr-defined]
    train = re.findall('^  (MMKD_WORK_DIR=.*)$', told, re.M)
    short = '--cfg-options train_cfg.max_epochs=4 train_cfg.val_interval=4'
    command('bash', '-c', f'{train[0]} {short}')
    assert (tmp_path / 'demo/amtml_label/epoch_4_student.pth').is_file()
