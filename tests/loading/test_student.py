"""The student of a config whose types are names, and of one whose types are classes."""

from pathlib import Path
from typing import Any

import pytest
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.config import Config
from mmengine.hooks import EMAHook

from mmkd_plugin.engine.hooks import EvaluateTeachers, SaveStudent
from mmkd_plugin.engine.loops import PeerTestLoop, PeerValLoop
from mmkd_plugin.loading.student import as_student, network_of
from mmkd_plugin.models.distillers import Distiller, MutualDistiller

NAMES = {
    kind: f'mmkd_plugin.{kind.__name__}'
    for kind in (
        Distiller,
        MutualDistiller,
        EvaluateTeachers,
        SaveStudent,
        PeerValLoop,
        PeerTestLoop,
    )
}


def config(kind: type, by_class: bool) -> Config:
    """A config with hooks and loops; the types are classes, as in new-style configs, or names."""

    def spelled(one: type) -> Any:
        return one if by_class else NAMES[one]

    if kind is Distiller:
        teachers = [dict(model=tiny.classifier(depth=14), checkpoint='nowhere.pth')]
        model = tiny.distiller_config(Path(), teachers=teachers)
    else:
        model = tiny.mutual_config('a', 'b', predict='b')
    hooks = [EvaluateTeachers, SaveStudent]
    return Config(
        dict(
            model={**model, 'type': spelled(kind)},
            custom_hooks=[*(dict(type=spelled(hook)) for hook in hooks), dict(type='EMAHook')],
            val_cfg=dict(type=spelled(PeerValLoop)),
            test_cfg=dict(type=spelled(PeerTestLoop)),
        )
    )


@pytest.mark.parametrize('by_class', [False, True])
@pytest.mark.parametrize(
    ('kind', 'name', 'depth'),
    [
        (Distiller, None, 8),
        (Distiller, 'student', 8),
        (MutualDistiller, 'a', 8),
        (MutualDistiller, 'b', 14),
    ],
)
def test_a_config_becomes_that_of_one_network_without_hooks_and_loops_of_ours(
    kind: type, name: str | None, depth: int, by_class: bool
) -> None:
    cfg = config(kind, by_class)
    assert as_student(cfg, name)
    assert (cfg.model.type, cfg.model.backbone.depth) == ('ImageClassifier', depth)
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook']
    assert (cfg.val_cfg, cfg.test_cfg) == ({}, {})
    assert not as_student(cfg)


@pytest.mark.parametrize('by_class', [False, True])
def test_a_config_of_peers_keeps_all_of_them_if_none_is_named(by_class: bool) -> None:
    cfg = config(MutualDistiller, by_class)
    assert as_student(cfg)
    assert [peer.name for peer in cfg.model.peers] == ['a', 'b']
    path = f'{PeerTestLoop.__module__}.{PeerTestLoop.__name__}'
    assert cfg.test_cfg.type in (path, NAMES[PeerTestLoop])
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook']


def test_a_hook_of_another_package_given_by_class_stays() -> None:
    cfg = config(Distiller, by_class=True)
    cfg.custom_hooks = [dict(type=EMAHook), dict(type=SaveStudent)]
    as_student(cfg)
    assert [hook.type for hook in cfg.custom_hooks] == [EMAHook]


@pytest.mark.parametrize(
    ('cfg', 'name', 'mentions'),
    [
        (config(Distiller, False), 'teacher0', "'student'"),
        (config(MutualDistiller, False), 'c', "'a', 'b'"),
        (Config(dict(model=tiny.classifier())), 'student', 'one network'),
    ],
)
def test_a_network_that_the_config_does_not_have_is_refused(
    cfg: Config, name: str, mentions: str
) -> None:
    with raises_config_error('--network', name, mentions):
        as_student(cfg, name)


def test_a_config_without_a_model_stays_as_it_is() -> None:
    cfg = Config(dict(custom_hooks=[dict(type='mmkd_plugin.SaveStudent')]))
    assert not as_student(cfg)
    assert len(cfg.custom_hooks) == 1


def test_a_teacher_without_a_name_is_found_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / 'kd.py'
    path.write_text(f'model = {config(Distiller, False).model.to_dict()!r}\n')
    assert len(network_of(str(path), 'teacher0').backbone.layer1) == 2
    with raises_config_error('--network', 'teacher1', "'student', 'teacher0'"):
        network_of(str(path), 'teacher1')


def test_a_missing_config_is_refused() -> None:
    with raises_config_error('config', 'none.py', fix='No file is there.'):
        network_of('none.py', 'teacher0')
