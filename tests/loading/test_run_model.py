from typing import Any

import pytest
from helpers import classification as tiny
from mmengine import ConfigDict
from mmengine.model import BaseModel, MMDistributedDataParallel
from torch import nn

from mmkd_plugin.engine.hooks import SaveStudent
from mmkd_plugin.engine.loops import PeerTestLoop
from mmkd_plugin.loading.run_model import kind_of, own_names, unwrap
from mmkd_plugin.models.distillers import Distiller, MutualDistiller, ParaphraserTrainer


class OwnDistiller(Distiller):
    """A user's."""


@pytest.mark.parametrize(
    ('types', 'kind'),
    [
        (['mmkd_plugin.Distiller', 'Distiller', Distiller, OwnDistiller], 'student'),
        (['mmkd_plugin.models.distillers.Distiller'], 'student'),
        (['mmkd_plugin.MutualDistiller', 'MutualDistiller', MutualDistiller], 'mutual'),
        (['mmkd_plugin.ParaphraserTrainer', ParaphraserTrainer], 'paraphraser'),
        (['mmpretrain.ImageClassifier', BaseModel, nn.Linear, None, 3], ''),
        (['mmrazor.Distiller', 'mmkd_plugin.CifarResNet', 'MyDistiller'], ''),
    ],
)
def test_kind_of_a_model_config_is_known_by_name_and_by_class(types: list[Any], kind: str) -> None:
    for each in types:
        assert kind_of(dict(type=each)) == kind_of(ConfigDict(type=each)) == kind


@pytest.mark.parametrize('model', [None, 3, {}, dict(student=1)])
def test_kind_of_anything_else_is_empty(model: Any) -> None:
    assert kind_of(model) == ''


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('mmkd_plugin.SaveStudent', 'SaveStudent'),
        (SaveStudent, 'SaveStudent'),
        (PeerTestLoop, 'PeerTestLoop'),
    ],
)
def test_a_class_of_this_package_is_known_by_name_and_by_class(kind: Any, name: str) -> None:
    assert own_names(kind)[0] == name


@pytest.mark.parametrize('kind', ['EMAHook', 'mmkd_plugins.Hook', nn.Linear, None])
def test_a_class_of_another_package_is_none_of_ours(kind: Any) -> None:
    assert own_names(kind) == []


def test_unwrap_returns_the_model_inside_a_wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.network(tiny.classifier())
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = model
    assert unwrap(wrapper) is model
    assert unwrap(model) is model
