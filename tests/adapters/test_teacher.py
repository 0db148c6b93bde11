import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmkd_plugin.adapters import Teacher, build_teachers
from mmkd_plugin.loading.run_record import read_record


@ROOT_MODELS.register_module(force=True)
class Dropping(BaseModel):
    """Dropout and BatchNorm: its outputs depend on its mode in two ways."""

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
        'run_preprocessor': tiny.preprocessor(),
        **options,
    }
    return Teacher(config, **options)


def test_observe_equals_the_network_of_the_checkpoint(tmp_path: Path) -> None:
    network, alone = teacher(tmp_path), tiny.network(tiny.classifier(), seed=5).eval()
    network.request(['backbone.layer2'], scores=True)
    images = torch.randn(4, 3, 8, 8)
    output = network.observe(images)
    torch.testing.assert_close(output.scores.logits[:, 0], alone(images), rtol=0, atol=0)
    assert output.feature('backbone.layer2').shape == (4, 8, 4, 4)
    assert not output.scores.logits.requires_grad
    assert not output.feature('backbone.layer2').requires_grad


def test_observe_without_scores_stops_at_the_deepest_tap(tmp_path: Path) -> None:
    network = teacher(tmp_path)
    ran = []
    for name in ('backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'head'):
        network.model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: ran.append(name)
        )
    network.request(['backbone.layer1'])
    network.probe((3, 8, 8))
    ran.clear()
    output = network.observe(torch.randn(2, 3, 8, 8))
    assert (ran, output.scores) == (['backbone.layer1'], None)
    assert list(output.features) == ['backbone.layer1']
    ran.clear()
    network.request([])  # one of several teachers that no method needs
    assert network.observe(torch.randn(2, 3, 8, 8)).features == {}
    assert not ran


def test_observe_is_in_eval_mode_whatever_train_was_called_on(tmp_path: Path) -> None:
    config = dict(type='Dropping')
    student = tiny.distiller(
        tmp_path,
        teachers=[
            dict(model=config, checkpoint=tiny.checkpoint(tmp_path, config, seed=5), fast=False)
        ],
        methods=dict(h=dict(type='Hint', pairs=[dict(student='backbone.layer1', teacher='net')])),
    )
    alone = tiny.network(config, seed=5).eval()
    student.train()
    student.requires_grad_(True)
    inputs = student.data_preprocessor(tiny.batch_of(), True)['inputs']
    batch = {'inputs': inputs, 'teacher_inputs': []}
    before = tiny.weights_of(student.teachers[0].model)
    for _ in range(2):
        (output,) = student.observe_teachers(batch)
        torch.testing.assert_close(output.feature('net'), alone(inputs), rtol=0, atol=0)
    student.teachers[0].model.train()  # somebody reached in
    (output,) = student.observe_teachers(batch)
    torch.testing.assert_close(output.feature('net'), alone(inputs), rtol=0, atol=0)
    after = student.teachers[0].model.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_teacher_receives_no_gradient(tmp_path: Path) -> None:
    student = tiny.distiller(tmp_path, methods=dict(amtml=tiny.amtml(), kd=dict(type='SoftTarget')))
    sum(value for name, value in tiny.losses_of(student).items() if 'loss' in name).backward()
    for network in student.teachers:
        assert all(p.grad is None and not p.requires_grad for p in network.model.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_teacher_is_no_part_of_the_distiller(tmp_path: Path) -> None:
    student = tiny.distiller(tmp_path)
    own = {
        id(tensor)
        for network in student.teachers
        for tensor in network.model.state_dict(keep_vars=True).values()
    }
    assert not own & {id(p) for p in student.parameters()}
    assert not own & {id(b) for b in student.buffers()}
    modules = {id(module) for network in student.teachers for module in network.model.modules()}
    assert not modules & {id(module) for _, module in student.named_modules()}
    roots = {name.split('.')[0] for name in student.state_dict()}
    assert roots == {'student', 'teacher_scores', 'record'}


def test_copies_of_the_distiller_share_the_teachers(tmp_path: Path) -> None:
    student = tiny.distiller(tmp_path)
    for other in (copy.deepcopy(student), ExponentialMovingAverage(student).module):
        assert all(one is two for one, two in zip(student.teachers, other.teachers, strict=True))
        assert other.student is not student.student


def test_init_weights_leaves_the_teachers_as_they_are(tmp_path: Path) -> None:
    student = tiny.distiller(tmp_path)
    before = [tiny.weights_of(network.model) for network in student.teachers]
    weight = student.student.head.fc.weight.clone()
    student.init_weights()
    assert not torch.equal(weight, student.student.head.fc.weight)
    for state, network in zip(before, student.teachers, strict=True):
        after = network.model.state_dict()
        assert all(torch.equal(state[name], value) for name, value in after.items())


def test_observe_follows_the_device_of_the_input(tmp_path: Path) -> None:
    """The meta device stands in for a GPU: a parameter left behind would be an error."""
    network = teacher(tmp_path)
    network.request([], scores=True)
    output = network.observe(torch.empty(2, 3, 8, 8, device='meta'))
    assert output.scores.logits.device.type == 'meta'


def test_predict_equals_a_plain_run_of_the_model(tmp_path: Path) -> None:
    own = dict(type='ClsDataPreprocessor', mean=[10.0] * 3, std=[20.0] * 3)
    network = teacher(tmp_path, data_preprocessor=own)
    alone = tiny.network(tiny.classifier(data_preprocessor=own), seed=5).eval()
    found = network.predict(tiny.batch_of(), torch.device('cpu'))
    expected = alone.val_step(tiny.batch_of())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.pred_score, other.pred_score, rtol=0, atol=0)


def test_sha256_is_that_of_the_file_and_saved_with_the_run(tmp_path: Path) -> None:
    configs = tiny.teachers(tmp_path)
    student = tiny.distiller(tmp_path, teachers=configs)
    hashes = [hashlib.sha256(Path(one['checkpoint']).read_bytes()).hexdigest() for one in configs]
    assert [network.sha256 for network in student.teachers] == hashes
    saved = read_record(student.state_dict())['teachers']
    assert saved == [dict(name=f't{n}', sha256=one) for n, one in enumerate(hashes)]


def test_probe_has_what_a_method_may_need_once(tmp_path: Path) -> None:
    network = teacher(tmp_path, class_map=[2, 0], key='teachers[0] (a)')
    network.request(['neck'], scores=True)
    probe = network.probe((3, 8, 8))
    assert (probe.key, probe.sha256, probe.frozen) == ('teachers[0] (a)', network.sha256, True)
    assert (probe.checkpoint, probe.model) == (network.checkpoint, network.model)
    assert probe.feature('neck').shape == (2, 16)
    assert probe.output.scores.num_classes == 2


def test_request_scores_of_an_unknown_model_is_refused(tmp_path: Path) -> None:
    network = teacher(tmp_path, dict(type='Dropping'), key='teachers[0] (odd)')
    with raises_config_error(
        'teachers[0] (odd)', ANY, 'class scores of Dropping', fix='taps alone'
    ):
        network.request([], scores=True)


@pytest.mark.parametrize('checkpoint', [None, '', 3])
def test_build_without_a_checkpoint_is_refused(checkpoint: Any) -> None:
    config = dict(name='a', model=tiny.classifier(), checkpoint=checkpoint)
    with raises_config_error('teachers[0] (a).checkpoint', checkpoint, 'path or URL'):
        build_teachers([config], tiny.preprocessor())


@pytest.mark.parametrize('configs', [[], None, dict(model=1), 'a.pth'])
def test_build_no_list_of_teachers_is_refused(configs: Any) -> None:
    with raises_config_error('teachers', configs, 'list of at least one teacher'):
        build_teachers(configs, None)


@pytest.mark.parametrize(
    ('config', 'key', 'found', 'mentions'),
    [
        ('a.pth', 'teachers[0]', 'a.pth', 'dict(name=…, model=…, checkpoint=…)'),
        (dict(checkpoint='a'), 'teachers[0]', dict(checkpoint='a'), 'model=…'),
        (dict(model={}, ckpt='a'), 'teachers[0].ckpt', 'a', 'The keys are cfg_options, checkpoint'),
    ],
)
def test_build_wrong_dict_is_refused(config: Any, key: str, found: Any, mentions: str) -> None:
    with raises_config_error(key, found, mentions):
        build_teachers([config], None)


def test_build_two_teachers_of_one_name_are_refused(tmp_path: Path) -> None:
    one, other = tiny.teachers(tmp_path)
    with raises_config_error('teachers[1].name', 't0'):
        build_teachers([one, {**other, 'name': 't0'}], tiny.preprocessor())


def test_build_cfg_options_change_the_config(tmp_path: Path) -> None:
    path = tiny.checkpoint(tmp_path, tiny.classifier(classes=7))
    options = {'model.head.num_classes': 7}
    (network,) = build_teachers(
        [dict(model=tiny.classifier(), checkpoint=path, cfg_options=options)], tiny.preprocessor()
    )
    assert (network.name, network.model.head.fc.out_features) == ('teacher0', 7)


def test_teacher_from_a_file_of_several_networks_is_the_one_that_is_named(tmp_path: Path) -> None:
    config = tiny.classifier()
    wanted, other = (tiny.network(config, seed=seed) for seed in (5, 6))
    path = str(tmp_path / 'semi.pth')
    state = {f'teacher.{name}': value for name, value in wanted.state_dict().items()}
    state |= {f'student.{name}': value for name, value in other.state_dict().items()}
    torch.save(dict(raw=other.state_dict(), ema=state), path)
    entry = dict(model=config, checkpoint=path, checkpoint_key='ema', checkpoint_prefix='teacher')
    [built] = build_teachers([entry], tiny.preprocessor())
    assert not tiny.differing(built.model.state_dict(), wanted.state_dict())
    with raises_config_error('teachers[0] (teacher0).checkpoint', path, fix='checkpoint_prefix='):
        build_teachers([{**entry, 'checkpoint_prefix': None}], tiny.preprocessor())
