"""The demo of detectors, with two steps in place of thousands, on a few scenes."""

import io
import json
import re
import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from rich.console import Console

pytest.importorskip('mlxtend')
with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of the host, about itself
    pytest.importorskip('mmdet.models')

from experiments.demo.command import table_of
from experiments.demo.plan import Demo
from experiments.demo.run import run_demo

TOOL: dict[str, Any] = runpy.run_path(
    str(Path(__file__).parents[2] / 'tools/demo_det.py'), run_name='demo_det'
)
DEMO: Demo = TOOL['DEMO']
FEW = dict(train=8, val=4, test=2)
DISTILLED = ('ie_kd_gfl_r18', 'amtml_kd_gfl_r18')


def shorten(cfg: Config) -> None:
    """Change the configs. An untrained network detects every box, so there are metrics."""
    scenes = 'few_scenes'  # below the folder of the test, which is the current one
    changes: dict[str, Any] = {
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
    }
    changes |= {
        'param_scheduler.0.end': 1,
        'param_scheduler.1.begin': 1,
        'train_dataloader.batch_size': 4,
    }
    changes |= {f'{split}_dataloader.dataset.data_root': scenes for split in FEW} | {
        'data_root': scenes
    }
    changes |= {f'{split}_dataloader.dataset.scenes': FEW for split in FEW}
    changes |= {
        f'{split}_evaluator.ann_file': f'{scenes}/annotations/{split}.json'
        for split in ('val', 'test')
    }
    cfg.merge_from_dict(changes)
    teachers = [
        *cfg.model.get('teachers', []),
        *([cfg.model.teacher] if 'teacher' in cfg.model else []),
    ]
    pairs = [
        pair for method in cfg.model.get('methods', {}).values() for pair in method.get('pairs', [])
    ]
    for reading in (*teachers, *pairs):
        reading.checkpoint = re.sub(r'iter_\d+', 'iter_2', reading.checkpoint)
    for hook in cfg.get('custom_hooks', []):
        hook.pop('min_score', None)
    for method in cfg.model.get('methods', {}).values():
        if method.type == 'AMTMLKD':  # untrained teachers are confident nowhere
            method.locations = dict(background=0.0)
    if 'teacher' not in cfg.model:
        cfg.model.get('student', cfg.model).test_cfg.score_thr = 0.0


def run(root: Path) -> tuple[dict[str, float], str]:
    told = io.StringIO()
    console = Console(file=told, width=200, soft_wrap=True)
    stages = DEMO.load(root, shorten)
    measured = run_demo(DEMO, stages, 2, console)
    console.print(table_of(DEMO, measured))
    TOOL['report'](console, stages)
    return measured, told.getvalue()


@pytest.mark.slow
def test_demo_det_trains_and_reports_all_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'demo_det'
    measured, told = run(root)
    assert list((tmp_path / 'few_scenes/annotations').glob('*.json')), 'the scenes were written'
    assert measured.keys() == {training.name for training in (*DEMO.teachers, *DEMO.students)}
    for name, found in measured.items():
        metrics = json.loads((root / name / 'tested.json').read_text())['metrics']
        assert 100 * metrics['coco/bbox_mAP'] == found and 'coco/bbox_mAP_50' in metrics
        assert f'{name}: {found:.1f} mAP on the test scenes' in told
    for training in DEMO.between:
        assert f'{training.name}: ready' in told
        assert (root / training.name / 'iter_2.pth').is_file()
    for student in DISTILLED:
        assert (root / student / 'iter_2_student.pth').is_file()
        assert f'{root}/{student}/iter_2_student.pth' in told
    (picture,) = (root / 'amtml_kd_gfl_r18').glob('*/vis_data/vis_image/amtml_weights_*.png')
    assert str(picture) in told
    sheet = root / 'detections/sheet.png'
    assert sheet.is_file() and str(sheet) in told
    written = {path: path.stat().st_mtime_ns for path in root.rglob('*.pth')}
    again, _ = run(root)
    assert again == measured
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*.pth')} == written


def test_demo_det_needs_are_the_checkpoints_of_the_configs() -> None:
    """The configs load checkpoints of the trainings that come before, at their last step."""
    for training in DEMO.trainings:
        text = json.dumps(Config.fromfile(DEMO.configs / f'{training.name}.py').to_dict())
        read = set(re.findall(r'([^/"]+)/iter_\d+\.pth', text))
        assert read == set(training.needs), training.name
        for name in read:
            steps = Config.fromfile(DEMO.configs / f'{name}.py').train_cfg.max_iters
            assert f'{name}/iter_{steps}.pth' in text
