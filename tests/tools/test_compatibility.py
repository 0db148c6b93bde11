"""The table of compatibility: families, verdicts, resume and the page."""

import json
from pathlib import Path
from typing import Any

import pytest
from experiments.compatibility import plain, trial
from experiments.compatibility.families import Family, families, model_of, size_of
from experiments.compatibility.report import counts, page
from experiments.compatibility.rows import TEACHER, try_family
from experiments.compatibility.run import read_rows, run_families
from experiments.compatibility.trial import FAILED, METHODS, NOT_PLAIN, REFUSED, TRAINED
from helpers import classification as tiny
from mmengine.registry import MODELS, init_default_scope

from mmkd_plugin.models.methods import Hint

ROW = dict(family='mmdet/gfl', config='gfl/gfl_r50.py', method='Hint', verdict=TRAINED, reason='')


@pytest.fixture(scope='module')
def known() -> dict[str, Family]:
    return {family.key: family for family in families()}


def test_every_folder_of_models_is_a_family(known: dict[str, Family]) -> None:
    assert len(known) > 150
    assert {'mmpretrain/resnet', 'mmdet/gfl', 'mmdet/yolox', 'mmpretrain/swin_transformer'} <= set(
        known
    )
    assert all(family.configs for family in known.values())
    assert 'mmdet/_base_' not in known


def test_smallest_config_comes_first(known: dict[str, Family]) -> None:
    assert 'swin-tiny' in known['mmpretrain/swin_transformer'].configs[0]
    assert 'r50' in known['mmdet/gfl'].configs[0]
    assert size_of('yolox_tiny_8xb8') < size_of('yolox_s_8xb8') < size_of('yolox_x_8xb8')


def test_models_have_no_pretrained_weights() -> None:
    model = model_of('mmdet', 'gfl/gfl_r50_fpn_1x_coco.py')
    assert model.backbone.init_cfg is None and model._scope_ == 'mmdet'


@pytest.mark.filterwarnings('ignore')  # of the hosts, as in the tool
@pytest.mark.parametrize(
    ('name', 'verdicts'),
    [
        ('mmpretrain/lenet', [TRAINED, REFUSED, REFUSED, TRAINED, TRAINED]),
        ('mmpretrain/mobilenet_v3', [TRAINED] * 5),
        ('mmpretrain/blip2', [NOT_PLAIN] * 5),
        ('mmpretrain/levit', [TEACHER] * 5),
    ],
)
def test_rows_of_a_family(known: dict[str, Family], name: str, verdicts: list[str]) -> None:
    rows = list(try_family(known[name]))
    assert [row['method'] for row in rows] == list(METHODS)
    assert [row['verdict'] for row in rows] == verdicts, [row['reason'] for row in rows]
    done = (TRAINED, TEACHER)
    assert all(bool(row['reason']) is (row['verdict'] not in done) for row in rows)


def step(folder: Path, **changes: Any) -> dict[str, tuple[str, str]]:
    """Return the verdict of one step of a tiny classifier by a hint."""
    config = dict(tiny.classifier(), data_preprocessor=tiny.preprocessor())
    teacher = dict(name='t', model=config, checkpoint=tiny.checkpoint(folder, config, seed=3))
    init_default_scope('mmpretrain')
    plain.seed()
    network = MODELS.build(config)
    network.init_weights()
    batch = tiny.batch_of()
    losses = {n: plain.total(value) for n, value in plain.losses_of(network, batch).items()}
    taps = ('backbone[-1]', 'backbone[-1]')
    tried = trial.Trial(config, teacher, batch, {**losses, **changes}, taps, taps)
    return trial._step(('Hint',), tried)


def test_step_that_trains(tmp_path: Path) -> None:
    assert step(tmp_path) == {'Hint': (TRAINED, '')}


def test_task_loss_that_differs_from_the_plain_models_fails(tmp_path: Path) -> None:
    [(verdict, reason)] = step(tmp_path, loss=0.125).values()
    assert verdict == FAILED and '0.125 without a teacher' in reason


@pytest.mark.parametrize('scale', [0.0, float('nan')])
def test_loss_that_trains_nothing_fails(
    tmp_path: Path, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guards of the package would refuse it: the verdict does not rest on them."""
    monkeypatch.setattr('mmkd_plugin.models.distillers.distiller.check_losses', lambda *_: None)
    loss = Hint.pair_loss
    monkeypatch.setattr(Hint, 'pair_loss', lambda *args: scale * loss(*args).detach())
    [(verdict, reason)] = step(tmp_path).values()
    assert verdict == FAILED and reason


def test_raw_error_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError('of a user')

    monkeypatch.setattr(Hint, 'pair_loss', broken)
    assert step(tmp_path) == {'Hint': (FAILED, 'ZeroDivisionError: of a user')}


def test_run_goes_on_where_it_was_interrupted(known: dict[str, Family], tmp_path: Path) -> None:
    path = tmp_path / 'rows.jsonl'
    done = [dict(ROW, method=method) for method in METHODS]
    path.write_text(''.join(json.dumps(row) + '\n' for row in done) + '{"family": "mmdet/half')
    lines: list[str] = []
    chosen = [known['mmdet/gfl'], known['mmpretrain/lenet']]
    rows = run_families(chosen, path, jobs=1, log=lines.append)
    assert [row['family'] for row in rows] == ['mmdet/gfl'] * 5 + ['mmpretrain/lenet'] * 5
    assert len(lines) == 1 and lines[0].startswith('mmpretrain/lenet: Hint trained')
    assert run_families(chosen, path, jobs=1, log=lines.append) == rows and len(lines) == 1


def test_family_that_takes_too_long_is_stopped(known: dict[str, Family], tmp_path: Path) -> None:
    path = tmp_path / 'rows.jsonl'
    rows = run_families([known['mmdet/gfl']], path, jobs=1, limit=0.0, log=lambda _: None)
    assert {row['verdict'] for row in rows} == {NOT_PLAIN}
    assert all('too large here' in row['reason'] for row in rows)
    assert read_rows(path) == rows


def test_page_has_every_family_and_each_reason_once() -> None:
    reason = 'methods.hint: is 0. Tap a `larger` map.'
    rows = [
        *(dict(ROW, method=method) for method in METHODS),
        *(
            dict(ROW, family='mmpretrain/x', config='x/x.py', method=m, verdict=v, reason=reason)
            for m, v in zip(METHODS, [REFUSED, REFUSED, FAILED, NOT_PLAIN, TRAINED], strict=True)
        ),
    ]
    text = page(rows, 'python tools/compatibility.py')
    assert '| gfl | `gfl_r50.py` | yes | yes | yes | yes | yes |' in text
    assert '| x | `x.py` | 1 | 1 | **fails** 1 | – 1 | yes 1 |' in text
    assert text.count('is 0.') == 1 and '`python tools/compatibility.py` made this page' in text
    assert counts(rows)['Hint'] == {TRAINED: 1, REFUSED: 1}
