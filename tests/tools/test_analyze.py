"""tools/analyze.py on a tiny student: the printed numbers are those of the files."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import classification as tiny
from helpers.analysis import checkpoint_of, config_of
from helpers.errors import raises_config_error
from mmengine.config import Config

TOOL = Path(__file__).parents[2] / 'tools/analyze.py'
FILES = dict(
    cka={'cka.png', 'cka.json'},
    active={'active.png', 'active.json'},
    relevance={'relevance.png', 'relevance.json', 'relevance.npz'},
    noise={'noise.png', 'noise.json'},
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    cfg = config_of(tmp_path)
    checkpoint = checkpoint_of(cfg, tmp_path)
    cfg.dump(tmp_path / 'ie_kd.json')

    def run(subject: str, *options: str, config: Path | None = None) -> None:
        arguments = [subject, str(config or tmp_path / 'ie_kd.json'), checkpoint, *options]
        monkeypatch.setattr(sys, 'argv', ['analyze.py', *arguments, '--device', 'cpu'])
        runpy.run_path(str(TOOL), run_name='__main__')

    return run


@pytest.mark.slow
def test_analyze_all_writes_pictures_and_their_numbers(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / 'kd.json'
    Config(
        dict(
            model=tiny.classifier(),
            data_preprocessor=tiny.preprocessor(),
            default_scope='mmpretrain',
        )
    ).dump(other)
    out = tmp_path / 'out'
    options = ['--images', '4', '--depth', '1', '--levels', '0', '0.1', '--seeds', '2']
    options += ['--out', str(out)]
    run('all', '--against', str(other), tiny.checkpoint(tmp_path, seed=7), 'KD', *options)
    assert {path.name for path in out.iterdir()} == set().union(*FILES.values())
    assert all(
        (out / name).read_bytes().startswith(b'\x89PNG')
        for name in ('cka.png', 'active.png', 'noise.png')
    )
    printed = capsys.readouterr().out
    assert all(f'-> {path}' in printed for path in out.iterdir())
    cka = json.loads((out / 'cka.json').read_text())
    first = cka['pairs'][0]
    assert (first['one'], first['other'], cka['images']) == ('student: f_inh', 'student: f_exp', 4)
    assert (
        first['cka']
        == cka['cka'][cka['layers'].index(first['one'])][cka['layers'].index(first['other'])]
    )
    assert f'{first["cka"]:.3f} (unrelated' in printed
    relevance = json.loads((out / 'relevance.json').read_text())
    maps = np.load(out / 'relevance.npz')
    assert (
        list(maps)
        == [one['name'] for one in relevance['networks']]
        == ['t0', 'KD', 'student', 'f_inh', 'f_exp']
    )
    assert maps['f_inh'].shape == (4, 8, 8)
    np.testing.assert_allclose(maps['f_inh'] + maps['f_exp'], maps['student'], atol=1e-5)
    noise = json.loads((out / 'noise.json').read_text())['measured']
    assert {(one['network'], len(one['losses'])) for one in noise if one['level']} == {
        ('t0', 2),
        ('KD', 2),
        ('student', 2),
    }
    active = json.loads((out / 'active.json').read_text())['maps']
    assert ('student', 'f_exp') in {(one['network'], one['name']) for one in active}


def test_analyze_one_subject_writes_beside_the_checkpoint(
    run: Callable[..., None], tmp_path: Path
) -> None:
    run('active', '--images', '5')
    assert {path.name for path in (tmp_path / 'analyze').iterdir()} == FILES['active']
    assert json.loads((tmp_path / 'analyze/active.json').read_text())['images'] == 5


def test_analyze_another_config_raises_with_a_remedy(
    run: Callable[..., None], tmp_path: Path
) -> None:
    Config(dict(model=tiny.classifier())).dump(tmp_path / 'plain.json')
    with raises_config_error('config', 'ImageClassifier', fix='--against CONFIG CHECKPOINT'):
        run('cka', config=tmp_path / 'plain.json')
