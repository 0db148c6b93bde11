import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import state_of
from helpers.errors import ANY, raises_config_error
from helpers.toy_run import write_config
from mmengine.config import Config

from mmkd_plugin.engine.stages import load_stages, train_stages, work_root

REPOSITORY = Path(__file__).parents[2]
SEVEN, EIGHT = 'randomness = dict(seed=7)', 'randomness = dict(seed=8)'


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [write_config(tmp_path / 'first.py', SEVEN), write_config(tmp_path / 'second.py', EIGHT)]


def weights(folder: Path, epoch: int = 2) -> torch.Tensor:
    return state_of(folder / f'epoch_{epoch}.pth')['linear.weight']


def edited(change: Callable[[Config], object], paths: list[Path]) -> None:
    train_stages(load_stages(paths, edit=change))


def test_train_stages_each_in_its_folder(two: list[Path]) -> None:
    train_stages(load_stages(two))
    for name in ('first', 'second'):
        note = json.loads((work_root() / name / 'finished.json').read_text())
        assert note['last_checkpoint'] == 'epoch_2.pth'
        assert not (work_root() / name / 'started.json').exists()
    assert not torch.equal(weights(work_root() / 'first'), weights(work_root() / 'second'))


def test_train_stages_stage_is_the_same_alone_and_after_another(
    tmp_path: Path, two: list[Path]
) -> None:
    before = write_config(
        tmp_path / 'before.py', 'randomness = dict(seed=None, deterministic=True)'
    )
    train_stages(load_stages([before, two[1]]))
    together = weights(work_root() / 'second')
    assert not torch.are_deterministic_algorithms_enabled()
    train_stages(load_stages([two[1]], work_dir=str(tmp_path / 'alone')))
    assert torch.equal(weights(tmp_path / 'alone'), together)


def test_train_stages_stage_without_seed_takes_none_from_the_one_before(
    tmp_path: Path, two: list[Path]
) -> None:
    unseeded = write_config(tmp_path / 'unseeded.py', 'randomness = dict(seed=None)')
    found = []
    for attempt in ('one', 'two'):
        train_stages(load_stages([two[0], unseeded], work_dir=str(tmp_path / attempt)))
        found.append(weights(tmp_path / attempt / 'unseeded'))
    assert not torch.equal(*found)


def test_train_stages_finished_stage_is_skipped(two: list[Path]) -> None:
    train_stages(load_stages(two[:1]))
    written = (work_root() / 'first/epoch_2.pth').stat().st_mtime_ns
    train_stages(load_stages(two))
    assert (work_root() / 'first/epoch_2.pth').stat().st_mtime_ns == written
    assert (work_root() / 'second/finished.json').exists()


def test_train_stages_resumed_stage_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    # Four steps an epoch: step 6 fails in the second epoch of three. Without dropout only the
    # shuffling is random, and MMEngine seeds it by epoch. So the resumed run must end bit by bit as
    # an unbroken one.
    lines = "train_cfg['max_epochs'] = 3", "model['dropout'] = 0.0"
    whole = write_config(tmp_path / 'whole.py', *lines)
    broken = write_config(tmp_path / 'broken.py', *lines)
    train_stages(load_stages([whole]))
    stage = load_stages([broken])
    stage[0].cfg.model.fail_in_step = 6
    with pytest.raises(RuntimeError, match='made to fail'):
        train_stages(stage)
    assert (work_root() / 'broken/started.json').exists()
    train_stages(load_stages([broken]))
    assert torch.equal(weights(work_root() / 'broken', 3), weights(work_root() / 'whole', 3))


def test_train_stages_changed_config_is_an_error_without_a_flag(two: list[Path]) -> None:
    train_stages(load_stages(two[:1]))
    seven = weights(work_root() / 'first')
    write_config(two[0], EIGHT)
    first = str(work_root() / 'first')
    with raises_config_error(first, ANY, 'was finished with another config', fix='--restart'):
        train_stages(load_stages(two[:1]))
    train_stages(load_stages(two[:1]), restart=True)
    assert not torch.equal(weights(work_root() / 'first'), seven)


def test_train_stages_resume_trains_a_finished_stage_for_longer(two: list[Path]) -> None:
    train_stages(load_stages(two[:1]))
    write_config(two[0], SEVEN, "train_cfg['max_epochs'] = 3")
    train_stages(load_stages(two[:1]), resume='auto')
    note = json.loads((work_root() / 'first/finished.json').read_text())
    assert note['last_checkpoint'] == 'epoch_3.pth'
    train_stages(load_stages(two[:1]))  # finished, with the new config


def test_train_stages_interrupted_stage_with_changed_config_is_an_error(two: list[Path]) -> None:
    stage = load_stages(two[:1])
    stage[0].cfg.model.fail_in_step = 6
    with pytest.raises(RuntimeError, match='made to fail'):
        train_stages(stage)
    write_config(two[0], EIGHT)
    first = str(work_root() / 'first')
    with raises_config_error(first, ANY, 'was interrupted with another config', fix='--resume'):
        train_stages(load_stages(two[:1]))


def test_train_stages_failure_before_the_first_checkpoint_allows_changes(
    two: list[Path],
) -> None:
    stage = load_stages(two[:1])
    stage[0].cfg.model.fail_in_step = 1
    with pytest.raises(RuntimeError, match='made to fail'):
        train_stages(stage)
    write_config(two[0], EIGHT)
    [mended] = load_stages(two[:1])
    train_stages([mended])
    assert mended.read_status('finished.json') is not None


def test_train_stages_interrupted_between_checkpoints_begins_anew(two: list[Path]) -> None:
    # With max_keep_ckpts=1 MMEngine removes the checkpoint that `last_checkpoint` names before it
    # writes the next.
    stage = load_stages(two[:1])
    stage[0].cfg.model.fail_in_step = 6
    with pytest.raises(RuntimeError, match='made to fail'):
        train_stages(stage)
    (work_root() / 'first/epoch_1.pth').unlink()
    train_stages(load_stages(two))
    assert (
        json.loads((work_root() / 'first/finished.json').read_text())['last_checkpoint']
        == 'epoch_2.pth'
    )
    anew = weights(work_root() / 'first')
    train_stages(load_stages(two[:1]), restart=True)
    assert torch.equal(weights(work_root() / 'first'), anew)


def test_stage_hash_does_not_depend_on_the_work_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(
        tmp_path / 'a.py', "teacher = '{{$MMKD_WORK_DIR:work_dirs}}/teacher/epoch_1.pth'"
    )
    digests = set()
    for root in ('here', 'there'):
        monkeypatch.setenv('MMKD_WORK_DIR', str(tmp_path / root))
        stage = load_stages([path])[0]
        assert stage.cfg.teacher == str(tmp_path / root / 'teacher/epoch_1.pth')
        digests.add(stage.sha256)
    assert len(digests) == 1


def test_stage_hash_does_not_depend_on_the_folder_of_the_configs(tmp_path: Path) -> None:
    digests = set()
    (tmp_path / 'link').symlink_to(tmp_path / 'here')
    for clone in ('here', 'there', 'link'):
        (tmp_path / clone).mkdir(exist_ok=clone == 'link')
        path = write_config(tmp_path / clone / 'a.py', "teacher = '{{fileDirname}}/teacher.py'")
        [stage] = load_stages([path])
        assert stage.cfg.teacher == str(tmp_path / clone / 'teacher.py')
        digests.add(stage.sha256)
    assert len(digests) == 1


def test_load_stages_work_dir_is_a_folder_for_one_config_and_a_root_for_several(
    tmp_path: Path, two: list[Path]
) -> None:
    assert load_stages(two[:1], work_dir='x')[0].folder == Path('x')
    assert [stage.folder for stage in load_stages(two, work_dir=str(tmp_path / 'x'))] == [
        tmp_path / 'x/first',
        tmp_path / 'x/second',
    ]
    assert work_root() == tmp_path / 'x'  # where the second one's config finds the first


def test_load_stages_config_keeps_its_work_dir(tmp_path: Path, two: list[Path]) -> None:
    own = write_config(tmp_path / 'own.py', f"work_dir = '{tmp_path}/mine'")
    assert load_stages([own, *two], work_dir=str(tmp_path / 'x'))[0].folder == tmp_path / 'mine'


def test_load_stages_shared_folder_is_an_error(tmp_path: Path, two: list[Path]) -> None:
    (tmp_path / 'other').mkdir()
    twin = write_config(tmp_path / 'other/first.py')
    with raises_config_error('work_dir', str(work_root() / 'first'), str(twin), fix='work_dir'):
        load_stages([two[0], twin])


def test_train_stages_one_checkpoint_for_several_stages_is_an_error(two: list[Path]) -> None:
    with raises_config_error('--resume', 'epoch_1.pth', 'several stages', fix='one config'):
        train_stages(load_stages(two), resume='epoch_1.pth')


def run_tool(*arguments: object) -> 'subprocess.CompletedProcess[str]':
    return subprocess.run(
        [sys.executable, REPOSITORY / 'tools/train.py', *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': f'{REPOSITORY}:{REPOSITORY}/tests'},
    )


@pytest.mark.slow
def test_train_tool_by_command_line(tmp_path: Path, two: list[Path]) -> None:
    done = run_tool(
        *two,
        '--work-dir',
        tmp_path / 'out',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        '--no-validate',
    )
    assert done.returncode == 0, done.stderr
    assert 'Epoch(train)' in done.stdout
    assert 'Epoch(val)' not in done.stdout
    assert (tmp_path / 'out/second/epoch_1.pth').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('lines', 'flag', 'message'),
    [
        (
            "optim_wrapper['type'] = 'ApexOptimWrapper'",
            '--amp',
            "optim_wrapper.type: must be 'OptimWrapper' with --amp (found 'ApexOptimWrapper')",
        ),
        ('', '--auto-scale-lr', 'auto_scale_lr.base_batch_size: is missing'),
    ],
)
def test_train_tool_flags_that_do_not_fit_the_config_are_refused(
    tmp_path: Path, lines: str, flag: str, message: str
) -> None:
    done = run_tool(write_config(tmp_path / 'a.py', lines), flag)
    assert done.returncode != 0
    assert message in done.stderr
