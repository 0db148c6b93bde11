"""The promise of CONTRIBUTING: a loss that a reader can train with is three edits.

Its file, a line in ``__init__.py``, and its test. Here they are made in a folder of one's own.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from mmengine.config import Config

from mmkd_plugin.models.methods import FeatureMethod
from mmkd_plugin.registry import MODELS, build_part

#: First edit: the file of the loss.
LOSS = '''\
"""Mean absolute difference of two maps."""

from torch import Tensor

from mmkd_plugin.errors import positive_number
from mmkd_plugin.models.losses import loss_module


@loss_module('MyLoss', scale=positive_number)
def my_loss(student: Tensor, teacher: Tensor, scale: float = 1.0) -> Tensor:
    """Return the mean absolute difference, times ``scale``."""
    return scale * (student - teacher.detach()).abs().mean()
'''

#: Second edit: a line in ``__init__.py``.
LINE = 'from my_losses.my_loss import my_loss\n'

#: Third edit: its test, run below.
TEST = """\
import torch

from my_losses import my_loss


def test_my_loss_equals_the_value_by_hand():
    assert my_loss(torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 2.0]]), scale=2.0) == 3.0
"""

CONFIG = """\
custom_imports = dict(imports='my_losses')
model = dict(
    methods=dict(
        mine=dict(
            type='FeatureMethod',
            loss=dict(type='MyLoss', scale=0.5, loss_weight=10.0),
            connector=dict(type='HintRegressor'),
            pairs=[dict(student='backbone.layer3', teacher='backbone.layer3')],
        )
    )
)
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """Load the config of a run with that loss; afterwards forget the package and the loss."""
    package = tmp_path / 'my_losses'
    package.mkdir()
    (package / 'my_loss.py').write_text(LOSS)
    (package / '__init__.py').write_text(LINE)
    (tmp_path / 'test_my_loss.py').write_text(TEST)
    (tmp_path / 'config.py').write_text(CONFIG)
    monkeypatch.syspath_prepend(tmp_path)
    yield Config.fromfile(tmp_path / 'config.py')
    for name in [name for name in sys.modules if name.split('.')[0] == 'my_losses']:
        del sys.modules[name]
    MODELS._module_dict.pop('MyLoss', None)


def test_new_loss_trains_by_its_name_in_a_config(config: Config, tmp_path: Path) -> None:
    model = tiny.distiller(tmp_path, methods=config.model.methods)
    before = tiny.weights_of(model)
    losses = tiny.losses_of(model)
    assert losses['mine.loss_feature'] > 0
    runner = tiny.runner(model, tmp_path / 'run', iters=2)
    runner.train()
    moved = {name for name, p in tiny.parameters_of(model) if not torch.equal(p, before[name])}
    assert 'methods.mine.connectors.0.weight' in moved
    assert 'student.backbone.layer1.0.conv1.weight' in moved
    logged = runner.message_hub.get_scalar('train/mine.loss_feature').data[0]
    assert len(logged) == 2 and (logged > 0).all()


def test_new_loss_equals_its_function(config: Config) -> None:
    from my_losses import my_loss

    outputs = [tiny.output(**{'backbone.layer3': torch.randn(4, 6, 2, 2)}) for _ in range(2)]
    options = {**config.model.methods.mine, 'connector': None}
    method = tiny.built(build_part(options, FeatureMethod, 'mine'), outputs[0], outputs[1:])
    maps = [one.feature('backbone.layer3') for one in outputs]
    loss = method(outputs[0], outputs[1:], None)['loss_feature']
    torch.testing.assert_close(loss, 10 * my_loss(*maps, scale=0.5))


@pytest.mark.usefixtures('config')
def test_test_of_the_new_loss_passes(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    exec((tmp_path / 'test_my_loss.py').read_text(), found)
    found['test_my_loss_equals_the_value_by_hand']()


def test_wrong_setting_of_the_new_loss_is_refused(config: Config, tmp_path: Path) -> None:
    config.model.methods.mine.loss.scale = -1
    with raises_config_error('methods.mine.loss.scale', -1, 'must be a number > 0'):
        tiny.distiller(tmp_path, methods=config.model.methods)
