import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmkd_plugin.adapters.teacher import Teacher, build_teachers


@ROOT_MODELS.register_module(force=True)
class Dropping(BaseModel):
    """Dropout and BatchNorm; its scores depend on its mode in two ways."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 4, 3)
        )

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Tensor:
        return self.net(inputs)


def teacher(folder: Path, config: Any = None, **options: Any) -> Teacher:
    config = config or tiny.classifier()
    options = {
        'checkpoint': tiny.checkpoint(folder, config, seed=5),
        'run_preprocessor': tiny.PREPROCESSOR,
        **options,
    }
    return Teacher(config, **options)


def test_it_answers_like_the_network_of_its_checkpoint(tmp_path: Path) -> None:
    taught, alone = teacher(tmp_path), tiny.network(tiny.classifier(), seed=5).eval()
    taught.tap(['backbone.layer2'], needs_scores=True)
    images = torch.randn(4, 3, 8, 8)
    seen = taught(images)
    torch.testing.assert_close(seen.logits, alone(images), rtol=0, atol=0)
    assert seen.features['backbone.layer2'].shape == (4, 8, 4, 4)
    assert not seen.logits.requires_grad


def test_without_scores_it_stops_at_its_deepest_tap(tmp_path: Path) -> None:
    taught = teacher(tmp_path)
    ran = []
    for name in ('backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'head'):
        taught.model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: ran.append(name)
        )
    taught.tap(['backbone.layer1'], needs_scores=False)
    seen = taught(torch.randn(2, 3, 8, 8))
    assert (ran, seen.logits, list(seen.features)) == (
        ['backbone.layer1'],
        None,
        ['backbone.layer1'],
    )
    ran.clear()
    taught.tap([], needs_scores=False)  # of several teachers, one that no method asks
    assert taught(torch.randn(2, 3, 8, 8)).features == {}
    assert not ran


def test_eval_mode_whatever_train_says(tmp_path: Path) -> None:
    config = dict(type='Dropping')
    student = tiny.distiller(
        tmp_path,
        teachers=[dict(model=config, checkpoint=tiny.checkpoint(tmp_path, config, seed=5))],
        methods=dict(h=dict(type='Hint', pairs=[dict(student='backbone.layer1', teacher='net')])),
    )
    alone = tiny.network(config, seed=5).eval()
    student.train()
    student.requires_grad_(True)
    raw = tiny.batch_of()
    inputs = student.data_preprocessor(raw, True)['inputs']
    statistics = tiny.weights_of(student.teachers[0].model)
    for _ in range(2):
        (seen,) = student.ask_teachers({'inputs': inputs, 'teacher_inputs': []})
        torch.testing.assert_close(seen.features['net'], alone(inputs), rtol=0, atol=0)
    student.teachers[0].model.train()  # somebody reached in
    (seen,) = student.ask_teachers({'inputs': inputs, 'teacher_inputs': []})
    torch.testing.assert_close(seen.features['net'], alone(inputs), rtol=0, atol=0)
    assert all(
        torch.equal(statistics[name], value)
        for name, value in student.teachers[0].model.state_dict().items()
    )


def test_no_gradient_reaches_it(tmp_path: Path) -> None:
    student = tiny.distiller(tmp_path, methods=dict(amtml=tiny.amtml(), kd=dict(type='SoftTarget')))
    sum(value for name, value in tiny.losses_of(student).items() if 'loss' in name).backward()
    for taught in student.teachers:
        assert all(p.grad is None and not p.requires_grad for p in taught.model.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_it_is_no_part_of_the_distiller(tmp_path: Path) -> None:
    student = tiny.distiller(tmp_path)
    own = {
        id(tensor)
        for taught in student.teachers
        for tensor in taught.model.state_dict(keep_vars=True).values()
    }
    assert not own & {id(p) for p in student.parameters()}
    assert not own & {id(b) for b in student.buffers()}
    modules = {id(module) for taught in student.teachers for module in taught.model.modules()}
    assert not modules & {id(module) for _, module in student.named_modules()}
    roots = {name.split('.')[0] for name in student.state_dict()}
    assert roots == {'student', 'teacher_scores', 'teacher_sha256'}


def test_copies_of_the_distiller_share_it(tmp_path: Path) -> None:
    student = tiny.distiller(tmp_path)
    for other in (copy.deepcopy(student), ExponentialMovingAverage(student).module):
        assert all(one is two for one, two in zip(student.teachers, other.teachers, strict=True))
        assert other.student is not student.student


def test_initialisation_leaves_it_alone(tmp_path: Path) -> None:
    student = tiny.distiller(tmp_path)
    before = [tiny.weights_of(taught.model) for taught in student.teachers]
    weight = student.student.head.fc.weight.clone()
    student.init_weights()
    assert not torch.equal(weight, student.student.head.fc.weight)
    for state, taught in zip(before, student.teachers, strict=True):
        assert all(
            torch.equal(state[name], value) for name, value in taught.model.state_dict().items()
        )


def test_it_follows_its_input(tmp_path: Path) -> None:
    """The meta device stands in for a GPU: a parameter left behind would be an error."""
    taught = teacher(tmp_path)
    taught.tap([], needs_scores=True)
    seen = taught(torch.empty(2, 3, 8, 8, device='meta'))
    assert seen.logits.device.type == 'meta'


def test_predictions_are_those_of_a_plain_run(tmp_path: Path) -> None:
    own = dict(type='ClsDataPreprocessor', mean=[10.0] * 3, std=[20.0] * 3)
    taught = teacher(tmp_path, data_preprocessor=own)
    alone = tiny.network(tiny.classifier(data_preprocessor=own), seed=5).eval()
    ours, theirs = (
        taught.predict(tiny.batch_of(), torch.device('cpu')),
        alone.val_step(tiny.batch_of()),
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.pred_score, other.pred_score, rtol=0, atol=0)


def test_its_hash_is_its_files(tmp_path: Path) -> None:
    student = tiny.distiller(tmp_path)
    assert student.teacher_sha256.shape == (2, 32)
    assert bytes(student.teacher_sha256[1].tolist()) == student.teachers[1].sha256


def test_scores_of_a_model_that_no_host_knows(tmp_path: Path) -> None:
    taught = teacher(tmp_path, dict(type='Dropping'), key='teachers[0] (odd)')
    with pytest.raises(
        ValueError,
        match=r'^teachers\[0\] \(odd\): expected a model whose class scores are known, got Dropping',
    ):
        taught.tap([], needs_scores=True)


@pytest.mark.parametrize('checkpoint', [None, '', 3])
def test_a_teacher_without_a_checkpoint(checkpoint: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r'^teachers\[0\] \(a\)\.checkpoint: expected the path or URL of trained weights',
    ):
        build_teachers(
            [dict(name='a', model=tiny.classifier(), checkpoint=checkpoint)], tiny.PREPROCESSOR
        )


@pytest.mark.parametrize(
    ('configs', 'message'),
    [
        ([], r'^teachers: expected a list of at least one teacher, got \[\]'),
        (None, r'^teachers: expected a list of at least one teacher, got None'),
        (dict(model=1), r'^teachers: expected a list of at least one teacher, got \{'),
        (['a.pth'], r"^teachers\[0\]: expected dict\(name=…, model=…, checkpoint=…\), got 'a.pth'"),
        ([dict(checkpoint='a')], r'^teachers\[0\]: expected dict\(name=…, model=…, checkpoint=…\)'),
        (
            [dict(model={}, ckpt='a')],
            r"^teachers\[0\]: expected the keys \[.*\], got also \['ckpt'\]",
        ),
    ],
)
def test_what_is_no_list_of_teachers(configs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_teachers(configs, None)


def test_two_teachers_of_one_name(tmp_path: Path) -> None:
    one, other = tiny.teachers(tmp_path)
    with pytest.raises(
        ValueError, match=r"^teachers\[1\]\.name: expected a name of its own, got 't0' again"
    ):
        build_teachers([one, {**other, 'name': 't0'}], tiny.PREPROCESSOR)


def test_options_change_its_config(tmp_path: Path) -> None:
    path = tiny.checkpoint(tmp_path, tiny.classifier(classes=7))
    options = {'model.head.num_classes': 7}
    (taught,) = build_teachers(
        [dict(model=tiny.classifier(), checkpoint=path, cfg_options=options)], tiny.PREPROCESSOR
    )
    assert (taught.name, taught.model.head.fc.out_features) == ('teacher0', 7)
