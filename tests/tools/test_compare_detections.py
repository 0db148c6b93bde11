"""tools/compare_detections.py on the command line: pictures with a panel for each network."""

import runpy
import sys
from pathlib import Path

import mmcv
import pytest
from helpers import coco_files
from helpers import detection as small
from mmengine.config import Config

from mmkd_plugin.analysis.detection_picture import GAP

TOOL = Path(__file__).parents[2] / 'tools/compare_detections.py'


@pytest.mark.slow
def test_compare_detections_draws_a_picture_for_each_image_with_a_panel_for_each_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coco_files.write(tmp_path)
    model = small.detector('gfl', test_cfg__max_per_img=5)
    loader = dict(dataset=coco_files.dataset(tmp_path, training=False))
    Config(dict(model=model, default_scope='mmdet', val_dataloader=loader)).dump(
        tmp_path / 'small.py'
    )
    config, one, other = (
        tmp_path / 'small.py',
        *(small.checkpoint(tmp_path, model, seed) for seed in (1, 2)),
    )
    options = ['--against', str(config), other, 'other', '--split', 'val', '--images', '9']
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'compare_detections.py',
            str(config),
            one,
            *options,
            '--score-thr',
            '0.1',
            '--device',
            'cpu',
        ],
    )
    runpy.run_path(str(TOOL), run_name='__main__')
    out = Path(one).parent / 'detections'
    pictures = sorted(out.glob('0*.png'))
    assert [path.name for path in pictures] == [
        f'{index:03}_{index:06}.png' for index in range(4)
    ], 'all images of the split'
    printed = capsys.readouterr().out
    assert all(f'-> {path}' in printed for path in (*pictures, out / 'sheet.png'))
    picture = mmcv.imread(str(pictures[0]))
    width = (picture.shape[1] - 2 * GAP) // 3
    truth, beside, own = (
        picture[:, start : start + width] for start in range(0, picture.shape[1], width + GAP)
    )
    assert (truth != beside).any() and (truth != own).any() and (beside != own).any()
