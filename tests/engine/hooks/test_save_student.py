import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.checkpoints import content_of, state_of
from helpers.errors import raises_config_error
from mmengine.fileio import HTTPBackend
from mmengine.hooks import Hook
from mmengine.runner import Runner, load_checkpoint

from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed

ONE_EPOCH = dict(by_epoch=True, max_epochs=1)


def _run(folder: Path, checkpoint: dict[str, Any], model: Any = None, **changes: Any) -> Runner:
    config = dict(
        train_cfg=dict(by_epoch=True, max_epochs=3),
        custom_hooks=[dict(type='mmkd_plugin.SaveStudent')],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', **checkpoint)),
    )
    model = copy.deepcopy(model or tiny.distiller_config(folder))
    return tiny.runner(model, folder / 'run', **{**config, **changes})


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / 'run').glob('*.pth'))


class _Watch(Hook):
    """Notes which files there are after each iteration."""

    def __init__(self, folder: Path, seen: list[list[str]]) -> None:
        self.folder = folder
        self.seen = seen

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.seen.append(_names(self.folder))


def _stock() -> torch.nn.Module:
    return build_network(
        network_config(tiny.classifier(), 'network', data_preprocessor=tiny.preprocessor()),
        'network',
    )


def test_each_kept_checkpoint_has_one_student_beside_it(tmp_path: Path) -> None:
    _run(tmp_path, dict(interval=1, max_keep_ckpts=2)).train()
    assert _names(tmp_path) == [
        'epoch_2.pth',
        'epoch_2_student.pth',
        'epoch_3.pth',
        'epoch_3_student.pth',
    ]


def test_a_student_loads_strictly_into_the_stock_model_and_computes_the_same(
    tmp_path: Path,
) -> None:
    run = _run(tmp_path, dict(interval=3))
    run.train()
    stock = _stock()
    load_checkpoint(stock, str(tmp_path / 'run' / 'epoch_3_student.pth'), strict=True)
    images = torch.randn(4, 3, 8, 8)
    run.model.eval()
    assert torch.equal(stock.eval()(images), run.model(images))
    content = content_of(tmp_path / 'run' / 'epoch_3_student.pth')
    assert set(content) == {'meta', 'state_dict'}
    assert content['meta']['dataset_meta'] == dict(classes=tuple('abcd'))


def test_the_best_checkpoint_has_its_student_too(tmp_path: Path) -> None:
    loader = dict(
        batch_size=8,
        num_workers=0,
        dataset=dict(type='TinyImages'),
        sampler=dict(type='DefaultSampler'),
    )
    val = dict(val_dataloader=loader, val_evaluator=dict(type='Accuracy'), val_cfg=dict())
    _run(tmp_path, dict(interval=3, save_best='accuracy/top1'), **val).train()
    [best] = [
        name
        for name in _names(tmp_path)
        if name.startswith('best') and not name.endswith('_student.pth')
    ]
    assert best.replace('.pth', '_student.pth') in _names(tmp_path)


def test_checkpoints_by_iteration_have_students_and_lose_them_together(tmp_path: Path) -> None:
    train = dict(by_epoch=False, max_iters=4)
    seen: list[list[str]] = []
    run = _run(tmp_path, dict(interval=2, by_epoch=False, max_keep_ckpts=1), train_cfg=train)
    run.register_hook(_Watch(tmp_path, seen), 'LOWEST')
    run.train()
    two, four = ['iter_2.pth', 'iter_2_student.pth'], ['iter_4.pth', 'iter_4_student.pth']
    assert seen == [[], two, two, four]
    assert _names(tmp_path) == four


def test_with_ema_the_student_has_the_averaged_weights(tmp_path: Path) -> None:
    hooks = [dict(type='mmkd_plugin.SaveStudent'), dict(type='EMAHook', momentum=0.3)]
    run = _run(tmp_path, dict(interval=3), custom_hooks=hooks)
    run.train()
    [ema] = [hook.ema_model.module for hook in run.hooks if type(hook).__name__ == 'EMAHook']
    student = state_of(tmp_path / 'run' / 'epoch_3_student.pth')
    assert torch.equal(student['head.fc.weight'], ema.student.head.fc.weight)
    assert not torch.equal(student['head.fc.weight'], run.model.student.head.fc.weight)
    assert ema.teachers[0] is run.model.teachers[0]  # frozen networks are not copied


def test_each_of_several_peers_has_its_file_and_loads_strictly_into_its_stock_model(
    tmp_path: Path,
) -> None:
    hooks = [dict(type='mmkd_plugin.SaveStudent')]
    run = tiny.runner(
        tiny.mutual_config(),
        tmp_path / 'run',
        optim_wrapper=tiny.peer_optimizers(),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        custom_hooks=hooks,
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)),
    )
    run.train()
    assert _names(tmp_path) == ['epoch_3.pth', 'epoch_3_a.pth', 'epoch_3_b.pth']
    images = torch.randn(4, 3, 8, 8)
    for name, depth in (('a', 8), ('b', 14)):
        config = network_config(
            tiny.classifier(depth=depth), 'network', data_preprocessor=tiny.preprocessor()
        )
        stock = build_network(config, 'network')
        load_checkpoint(stock, str(tmp_path / 'run' / f'epoch_3_{name}.pth'), strict=True)
        assert torch.equal(stock.eval()(images), run.model.network(name).eval()(images))


def test_files_that_the_hook_did_not_write_stay_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    folder.mkdir()
    teacher = torch.nn.Linear(2, 2).state_dict()
    torch.save(dict(state_dict=teacher), folder / 'my_student.pth')  # there is no my.pth
    torch.save(dict(state_dict=teacher), folder / 'teacher.pth')
    torch.save([1], folder / 'list.pth')
    torch.save(dict(state_dict=torch.nn.Linear), folder / 'code.pth')
    (folder / 'text.pth').write_text('version https://git-lfs.github.com/spec/v1')
    (folder / 'folder.pth').mkdir()  # as DeepSpeed writes checkpoints
    foreign = {path: path.read_bytes() for path in folder.glob('*.pth') if path.is_file()}
    _run(tmp_path, dict(interval=1, max_keep_ckpts=1)).train()
    assert {path: path.read_bytes() for path in foreign} == foreign
    own = set(_names(tmp_path)) - {path.name for path in foreign} - {'folder.pth'}
    assert own == {'epoch_3.pth', 'epoch_3_student.pth'}


def test_an_unreadable_file_is_reported_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'text.pth').write_text('text')
    _run(tmp_path, dict(interval=1)).train()
    told = ''.join(capfd.readouterr())
    assert told.count('text.pth: SaveStudent ignores it') == 1


def test_a_students_copy_under_another_name_stays(tmp_path: Path) -> None:
    model, keep = tiny.distiller_config(tmp_path), dict(interval=1, max_keep_ckpts=1)
    _run(tmp_path, keep, model, train_cfg=ONE_EPOCH).train()
    copied = tmp_path / 'run' / 'good_student.pth'
    shutil.copy(tmp_path / 'run' / 'epoch_1_student.pth', copied)
    _run(tmp_path, keep, model, resume=True).train()
    assert _names(tmp_path) == ['epoch_3.pth', 'epoch_3_student.pth', 'good_student.pth']


def test_a_resumed_run_removes_students_of_the_run_before(tmp_path: Path) -> None:
    model, keep = tiny.distiller_config(tmp_path), dict(interval=1, max_keep_ckpts=1)
    _run(tmp_path, keep, model, train_cfg=ONE_EPOCH).train()
    assert _names(tmp_path) == ['epoch_1.pth', 'epoch_1_student.pth']
    _run(tmp_path, keep, model, resume=True).train()
    assert _names(tmp_path) == ['epoch_3.pth', 'epoch_3_student.pth']


def test_a_student_whose_checkpoint_a_user_removed_before_the_run_stays(tmp_path: Path) -> None:
    model, keep = tiny.distiller_config(tmp_path), dict(interval=1, max_keep_ckpts=1)
    _run(tmp_path, keep, model, train_cfg=ONE_EPOCH).train()
    mine = tmp_path / 'run' / 'epoch_1_student.pth'
    before = mine.read_bytes()
    (tmp_path / 'run' / 'epoch_1.pth').unlink()
    _run(tmp_path, dict(interval=3), model).train()
    assert _names(tmp_path) == ['epoch_1_student.pth', 'epoch_3.pth', 'epoch_3_student.pth']
    assert mine.read_bytes() == before


def test_a_resumed_run_writes_the_student_that_a_killed_run_did_not(tmp_path: Path) -> None:
    model = tiny.distiller_config(tmp_path)
    _run(tmp_path, dict(interval=1), model, train_cfg=ONE_EPOCH).train()
    (tmp_path / 'run' / 'epoch_1_student.pth').unlink()
    _run(tmp_path, dict(interval=1), model, resume=True).train()
    assert 'epoch_1_student.pth' in _names(tmp_path)


def test_a_run_that_begins_anew_replaces_its_students(tmp_path: Path) -> None:
    _run(tmp_path, dict(interval=3)).train()
    student = tmp_path / 'run' / 'epoch_3_student.pth'
    before = state_of(student)['head.fc.weight']
    _run(tmp_path, dict(interval=3), randomness=dict(seed=4)).train()
    after = state_of(student)['head.fc.weight']
    assert not torch.equal(before, after)
    trained = state_of(tmp_path / 'run' / 'epoch_3.pth')['student.head.fc.weight']
    assert torch.equal(after, trained)


def test_a_users_file_in_the_place_of_a_student_stays_with_a_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / 'run' / 'epoch_3_student.pth'
    mine.parent.mkdir()
    torch.save(dict(state_dict=dict(a=torch.ones(1))), mine)
    os.utime(mine, (1, 1))
    _run(tmp_path, dict(interval=3)).train()
    assert state_of(mine)['a'].tolist() == [1.0]
    assert f'{mine}: not written by SaveStudent' in ''.join(capfd.readouterr())


def test_published_checkpoints_have_students_too(tmp_path: Path) -> None:
    run = _run(tmp_path, dict(interval=3, published_keys=['meta', 'state_dict']))
    with runner_checkpoints_allowed():  # CheckpointHook reads its checkpoint again
        run.train()
    published = next(name for name in _names(tmp_path) if name.startswith('epoch_3-'))
    assert published.replace('.pth', '_student.pth') in _names(tmp_path)


def test_checkpoints_in_another_folder_have_their_students_there(tmp_path: Path) -> None:
    _run(tmp_path, dict(interval=3, out_dir=str(tmp_path / 'out'))).train()
    assert sorted(path.name for path in (tmp_path / 'out' / 'run').iterdir()) == [
        'epoch_3.pth',
        'epoch_3_student.pth',
    ]


def test_a_student_is_small_and_names_its_checkpoint(tmp_path: Path) -> None:
    _run(tmp_path, dict(interval=3)).train()
    student = tmp_path / 'run' / 'epoch_3_student.pth'
    assert student.stat().st_size < 0.7 * (tmp_path / 'run' / 'epoch_3.pth').stat().st_size
    assert content_of(student)['meta']['exported_from'] == 'epoch_3.pth'


def test_a_run_without_a_student_is_refused(tmp_path: Path) -> None:
    hooks = [dict(type='mmkd_plugin.SaveStudent')]
    plain = tiny.classifier(data_preprocessor=tiny.preprocessor())
    run = tiny.runner(plain, tmp_path / 'run', custom_hooks=hooks)
    with raises_config_error('custom_hooks', 'ImageClassifier', 'SaveStudent', fix='Remove'):
        run.train()


def test_checkpoints_in_a_remote_store_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(tmp_path, dict(interval=3))
    monkeypatch.setattr(
        'mmengine.hooks.checkpoint_hook.get_file_backend', lambda *a, **k: HTTPBackend()
    )
    monkeypatch.setattr(
        HTTPBackend, 'join_path', lambda self, *parts: '/'.join(parts), raising=False
    )
    with raises_config_error('default_hooks.checkpoint.out_dir', fix='tools/export_student.py'):
        run.train()
