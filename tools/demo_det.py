"""Distil a small detector from larger ones, on scenes of real digits: under 15 minutes.

    python tools/demo_det.py

Two teachers are trained first, then the paraphrasers of one of them. The student is then trained
alone, by IE-KD from that teacher, and by AMTML-KD from both. The times are those of 2 cores. The
same command skips what is finished and continues what was interrupted.
"""

import io
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before numpy and torch: a training has one core

from experiments.demo.command import demo_command, last_picture
from experiments.demo.plan import Demo, Measure, Training
from rich.console import Console

from mmkd_plugin.analysis.detections import compare_detections
from mmkd_plugin.engine.stages import Stage

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/digit_scenes'
R18, R34 = 'teacher_gfl_r18', 'teacher_gfl_r34'
PARAPHRASERS = ('paraphraser_gfl_r18_p3', 'paraphraser_gfl_r18_p4')  # one a level of the pyramid
DEMO = Demo(
    name='demo_det',
    about='Seven trainings on scenes of handwritten digits',
    configs=CONFIGS,
    teachers=(Training(R18, 'teacher, GFL R18'), Training(R34, 'teacher, GFL R34')),
    between=tuple(Training(name, needs=(R18,)) for name in PARAPHRASERS),
    students=(
        Training('student_gfl_r18', 'student alone'),
        Training('ie_kd_gfl_r18', 'student by IE-KD (R18)', needs=(R18, *PARAPHRASERS)),
        Training('amtml_kd_gfl_r18', 'student by AMTML-KD (R18, R34)', needs=(R18, R34)),
    ),
    measure=Measure(
        'coco/bbox_mAP', title='test mAP', sentence='{:.1f} mAP on the test scenes', scale=100.0
    ),
    against='student_gfl_r18',
    against_title='against alone',
    data='Scenes of handwritten digits: written now if missing (once: 20 seconds, 135 MB)',
)


def report(console: Console, stages: Mapping[str, Stage]) -> None:
    """Print how to read the table, and the paths of pictures, logs and checkpoints."""
    alone = stages['student_gfl_r18']
    distilled = [stages['ie_kd_gfl_r18'], stages['amtml_kd_gfl_r18']]
    root = alone.folder.parent
    console.print(
        "\nmAP is COCO's, ×100, over IoU 0.50 to 0.95. One run each on 400 test scenes: a point"
        '\nmay be chance. The students are one network, trained for as many iterations on the same'
        '\nscenes.'
    )
    picture = last_picture(stages['amtml_kd_gfl_r18'], '*_weights_*.png')
    console.print(f'\nMean teacher weights by class (class × teacher):\n  {picture}')
    console.print('The students without distiller, for stock MMDet:')
    for stage in distilled:
        console.print(f'  {student_of(stage)}')
    console.print(f'Four test scenes, ground truth and detections:\n  {draw(stages)}')
    console.print(
        f'Scenes: {Path(alone.cfg.data_root).absolute()}. Logs: {root}/NAME/demo.log.'
        f' Checkpoints: {root}/NAME/iter_*.pth'
    )


def draw(stages: Mapping[str, Stage]) -> Path:
    """Draw the true boxes, the students' and the teachers' on a few test scenes."""
    titles = {'student_gfl_r18': 'alone', 'ie_kd_gfl_r18': 'IE-KD'}
    against = [
        (f'{CONFIGS}/{name}.py', str(last_checkpoint(stages[name])), title)
        for name, title in titles.items()
    ]
    stage = stages['amtml_kd_gfl_r18']
    out = stage.folder.parent / 'detections'
    with redirect_stdout(io.StringIO()):  # pycocotools prints about its index
        *_, sheet = compare_detections(
            stage.cfg, str(last_checkpoint(stage)), against, out=out, name='AMTML-KD', images=4
        )
    return sheet


def last_checkpoint(stage: Stage) -> Path:
    """Return the checkpoint at the end of a training."""
    finished = stage.read_status('finished.json')
    assert finished is not None
    return stage.folder / finished['last_checkpoint']


def student_of(stage: Stage) -> Path:
    """Return the exported student beside the last checkpoint of a distillation."""
    checkpoint = last_checkpoint(stage)
    return checkpoint.with_name(f'{checkpoint.stem}_student.pth')


if __name__ == '__main__':
    sys.exit(demo_command(DEMO, __doc__, report))
