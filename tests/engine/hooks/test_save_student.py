from pathlib import Path
from typing import Any

import torch
from helpers import classification as tiny
from mmengine.runner import Runner, load_checkpoint

from mmkd_plugin.loading.build import build_network, network_config


def _run(folder: Path, checkpoint: dict[str, Any], **changes: Any) -> Runner:
    config = dict(
        train_cfg=dict(by_epoch=True, max_epochs=3),
        custom_hooks=[dict(type='mmkd_plugin.SaveStudent')],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', **checkpoint)),
    )
    return tiny.runner(tiny.distiller_config(folder), folder / 'run', **{**config, **changes})


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / 'run').glob('*.pth'))


def _stock() -> torch.nn.Module:
    return build_network(
        network_config(tiny.classifier(), 'network', data_preprocessor=tiny.PREPROCESSOR), 'network'
    )


def test_one_student_beside_each_checkpoint_that_is_kept(tmp_path: Path) -> None:
    _run(tmp_path, dict(interval=1, max_keep_ckpts=2)).train()
    assert _names(tmp_path) == [
        'epoch_2.pth',
        'epoch_2_student.pth',
        'epoch_3.pth',
        'epoch_3_student.pth',
    ]


def test_it_loads_strictly_into_the_stock_model_and_computes_the_same(tmp_path: Path) -> None:
    run = _run(tmp_path, dict(interval=3))
    run.train()
    stock = _stock()
    load_checkpoint(stock, str(tmp_path / 'run' / 'epoch_3_student.pth'), strict=True)
    images = torch.randn(4, 3, 8, 8)
    run.model.eval()
    assert torch.equal(stock.eval()(images), run.model(images))
    content = torch.load(tmp_path / 'run' / 'epoch_3_student.pth', weights_only=True)
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


def test_checkpoints_by_iteration(tmp_path: Path) -> None:
    train = dict(by_epoch=False, max_iters=4)
    _run(tmp_path, dict(interval=2, by_epoch=False), train_cfg=train).train()
    assert _names(tmp_path) == [
        'iter_2.pth',
        'iter_2_student.pth',
        'iter_4.pth',
        'iter_4_student.pth',
    ]


def test_with_ema_the_student_is_the_averaged_one(tmp_path: Path) -> None:
    hooks = [dict(type='mmkd_plugin.SaveStudent'), dict(type='EMAHook', momentum=0.3)]
    run = _run(tmp_path, dict(interval=3), custom_hooks=hooks)
    run.train()
    [ema] = [hook.ema_model.module for hook in run.hooks if type(hook).__name__ == 'EMAHook']
    student = torch.load(tmp_path / 'run' / 'epoch_3_student.pth', weights_only=True)['state_dict']
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
            tiny.classifier(depth=depth), 'network', data_preprocessor=tiny.PREPROCESSOR
        )
        stock = build_network(config, 'network')
        load_checkpoint(stock, str(tmp_path / 'run' / f'epoch_3_{name}.pth'), strict=True)
        assert torch.equal(stock.eval()(images), run.model.network(name).eval()(images))
