"""Heads of another project: their class scores are read once a reader is registered."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import ANY, raises_config_error
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.adapters import TappedModel, register_score_reader, score_readers
from mmkd_plugin.adapters.score_readers import find_score_reader, registered_heads


@pytest.fixture(autouse=True)
def _own_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after each test what it registered."""
    monkeypatch.setattr(score_readers, '_READERS', dict(score_readers._READERS))


@MMPRETRAIN_MODELS.register_module(force=True)
class DictHead(BaseModule):
    """A classifier's head that returns a dict."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, feats: tuple[Tensor, ...]) -> dict[str, Tensor]:
        scores = self.fc(feats[-1])
        return dict(embedding=feats[-1], scores=scores)

    def loss(self, feats: tuple[Tensor, ...], data_samples: Any) -> dict[str, Tensor]:
        labels = torch.cat([sample.gt_label for sample in data_samples])
        return {'loss': F.cross_entropy(self(feats)['scores'], labels)}


@MMDET_MODELS.register_module(force=True)
class DictDenseHead(BaseModule):
    """A dense head that shares no class with MMDet's and returns a dict."""

    def __init__(
        self, num_classes: int, in_channels: int, train_cfg: Any = None, test_cfg: Any = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv_cls = nn.Conv2d(in_channels, num_classes, 1)
        self.conv_box = nn.Conv2d(in_channels, 4, 1)

    def forward(self, feats: tuple[Tensor, ...]) -> dict[str, list[Tensor]]:
        return dict(boxes=[*map(self.conv_box, feats)], scores=[*map(self.conv_cls, feats)])

    def loss(self, feats: tuple[Tensor, ...], data_samples: Any) -> dict[str, Tensor]:
        output = self(feats)
        return {'loss_box': sum(one.square().mean() for one in output['boxes'])}


@MMPRETRAIN_MODELS.register_module(force=True)
class Wider(DictHead):
    """A head that returns something else than the registered one."""

    def forward(self, feats: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return dict(super().forward(feats), temperature=torch.ones(1))


def read_scores(head: nn.Module, output: Any) -> list[Tensor]:
    scores = output['scores']
    return scores if isinstance(scores, list) else [scores]


def classifier(head: str = 'DictHead') -> dict[str, Any]:
    return {**tiny.classifier(), 'head': dict(type=head, num_classes=4, in_channels=16)}


def detector() -> Any:
    head = dict(_delete_=True, type='DictDenseHead', num_classes=small.CLASSES, in_channels=8)
    return small.detector('retinanet', bbox_head=head)


def require_step(model: Any, losses: Any, head: str) -> None:
    """The loss of the class scores trains head and backbone, and reaches no teacher."""
    assert losses['kd.loss_kd'] > 0
    before = tiny.weights_of(model.student)
    losses['kd.loss_kd'].backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    moved = {name for name, p in model.student.named_parameters() if not p.equal(before[name])}
    assert f'{head}.weight' in moved
    assert any(name.startswith('backbone') for name in moved)
    assert not any(p.grad is not None for p in model.teachers[0].model.parameters())


def distilled_classifier(folder: Path, config: Any) -> Any:
    teacher = dict(model=config, checkpoint=tiny.checkpoint(folder, config, seed=1))
    return tiny.distiller(folder, student=config, teachers=[teacher])


def test_classifier_with_a_registered_head_learns_by_soft_targets(tmp_path: Path) -> None:
    with raises_config_error('student', 'dict', 'DictHead', fix='register a score reader'):
        distilled_classifier(tmp_path, classifier())
    register_score_reader(DictHead)(read_scores)
    model = distilled_classifier(tmp_path, classifier())
    require_step(model, tiny.losses_of(model), 'head.fc')


def test_detector_with_a_registered_head_learns_by_soft_targets(tmp_path: Path) -> None:
    with raises_config_error(
        'student',
        ANY,
        'no score reader is registered for DictDenseHead',
        fix='register a score reader',
    ):
        small.distiller(tmp_path, detector())
    register_score_reader(DictDenseHead, activation='sigmoid')(read_scores)
    model = small.distiller(tmp_path, detector())
    losses = small.losses_of(model, small.batch_for('retinanet'))
    require_step(model, losses, 'bbox_head.conv_cls')


def test_scores_of_a_registered_dense_head_have_its_layout() -> None:
    """The padding is known without a prior generator: by the sizes of the maps."""
    register_score_reader(DictDenseHead, activation='sigmoid')(read_scores)
    net = TappedModel(small.network(detector()).eval(), 'student')
    net.request(['neck[0]'], scores=True)
    batch = net.model.data_preprocessor(small.batch_for('retinanet'), False)
    output = net.observe(batch['inputs'], data_samples=batch['data_samples'])
    scores, first = output.scores, output.feature('neck[0]')
    rows, columns = first.shape[2:]
    assert scores.levels[0] == (rows, columns, 1)
    assert (scores.activation, scores.background, scores.num_classes) == ('sigmoid', False, 3)
    expected = net.model.bbox_head.conv_cls(first)[1, :, 2, 3]
    assert torch.equal(scores.logits[1, 2 * columns + 3], expected)
    priors = small.network(small.detector('gfl')).bbox_head.prior_generator  # one anchor, as here
    sizes = [level[:2] for level in scores.levels]
    flags = priors.valid_flags(sizes, batch['data_samples'][1].img_shape, device='cpu')
    assert torch.equal(scores.valid[1], torch.cat(flags).bool())
    assert not scores.valid[1].all()


@pytest.mark.parametrize(
    ('columns', 'sigmoid', 'stated', 'activation', 'background'),
    [
        (3, None, 'softmax', 'softmax', False),
        (3, None, None, 'sigmoid', False),
        (3, False, None, 'softmax', False),
        (3, False, 'sigmoid', 'sigmoid', False),
        (4, False, None, 'softmax', True),
    ],
)
def test_layout_follows_the_reader_and_then_the_head(
    columns: int, sigmoid: bool | None, stated: str | None, activation: str, background: bool
) -> None:
    register_score_reader(DictDenseHead, activation=stated)(read_scores)
    model = small.network(detector()).eval()
    model.bbox_head.conv_cls = nn.Conv2d(8, columns, 1)
    model.bbox_head.cls_out_channels = columns
    if sigmoid is not None:
        model.bbox_head.use_sigmoid_cls = sigmoid
    net = TappedModel(model, 'student')
    net.request([], scores=True)
    scores = net.observe(torch.zeros(1, 3, 64, 64)).scores
    assert (scores.activation, scores.background) == (activation, background)
    assert scores.num_classes == small.CLASSES


def test_dense_head_without_a_number_of_classes_is_refused() -> None:
    register_score_reader(DictDenseHead)(read_scores)
    model = small.network(detector())
    del model.bbox_head.num_classes
    with raises_config_error('student', ANY, 'DictDenseHead has no attribute num_classes'):
        TappedModel(model, 'student').request([], scores=True)


@pytest.mark.parametrize(('stated', 'activation'), [(None, 'softmax'), ('sigmoid', 'sigmoid')])
def test_classifier_has_a_softmax_unless_the_reader_states_another(
    stated: str | None, activation: str
) -> None:
    register_score_reader(DictHead, activation=stated)(read_scores)
    net = TappedModel(tiny.network(classifier()), 'student')
    net.request([], scores=True)
    scores = net.observe(torch.zeros(2, 3, 8, 8)).scores
    assert (scores.activation, scores.per_image) == (activation, True)


def test_subclass_that_overrides_the_forward_is_unknown_again() -> None:
    register_score_reader(DictHead)(read_scores)
    assert find_score_reader(Wider(4, 16)) is None
    net = TappedModel(tiny.network(classifier('Wider')), 'student')
    net.request([], scores=True)
    with raises_config_error('student', 'dict', 'Wider', fix='register a score reader'):
        net.observe(torch.zeros(2, 3, 8, 8))
    register_score_reader(Wider)(read_scores)
    assert find_score_reader(Wider(4, 16)).read is read_scores


class Base(nn.Module):
    def forward(self, x: Any) -> Any: ...


class Same(Base):
    def loss(self, x: Any) -> Any: ...


class Nearer(Same):
    def forward(self, x: Any) -> Any: ...


class Leaf(Nearer):
    pass


class Mixed(nn.Identity, Base):
    """Another class of the project decides what it returns."""


def first(head: nn.Module, output: Any) -> list[Tensor]: ...


def second(head: nn.Module, output: Any) -> list[Tensor]: ...


def test_find_nearest_registered_class_wins() -> None:
    register_score_reader(Base)(first)
    assert find_score_reader(Same()).read is first
    assert find_score_reader(Leaf()) is None, 'Nearer overrides the forward'
    assert find_score_reader(Mixed()) is None, 'Identity overrides the forward'
    register_score_reader(Nearer)(second)
    assert find_score_reader(Base()).read is first
    assert find_score_reader(Leaf()).read is find_score_reader(Nearer()).read is second
    assert find_score_reader(None) is find_score_reader(nn.Identity()) is None


def test_find_overrides_belong_to_one_reader_alone() -> None:
    """A method that decides the output of one head may be overridden in another project's."""
    register_score_reader(Base)(first)
    register_score_reader('other.Head', overrides=['loss'])(second)
    assert find_score_reader(Same()).read is first
    register_score_reader(Base, overrides=['loss'])(second)
    assert find_score_reader(Same()) is None, 'Same overrides the loss'
    assert find_score_reader(Base()).read is second


def test_register_returns_the_function_and_takes_several_heads() -> None:
    assert register_score_reader(Base, 'other.Head')(first) is first
    assert find_score_reader(Base()).read is first
    head = type('Head', (nn.Module,), {'__module__': 'other.models.heads'})
    assert find_score_reader(head()).read is first
    same_name = type('Head', (nn.Module,), {'__module__': 'third.models.heads'})
    assert find_score_reader(same_name()) is None
    assert registered_heads('other') == ['Head']
    assert 'RetinaHead' in registered_heads('mmdet')
    assert 'Head' not in registered_heads('mmdet')


@pytest.mark.slow
def test_names_import_no_project() -> None:
    code = (
        'import warnings; warnings.simplefilter("ignore")\n'
        'import sys\n'
        'from mmkd_plugin.adapters import register_score_reader\n'
        'from mmkd_plugin.adapters.score_readers import registered_heads\n'
        'register_score_reader("no_such_project.Head")(print)\n'
        'assert "RetinaHead" in registered_heads("mmdet")\n'
        'projects = ("mmdet", "mmpretrain", "no_such_project")\n'
        'print([name for name in projects if name in sys.modules])'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == '[]'
