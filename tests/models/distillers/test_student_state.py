"""Checkpoints of a distiller: of its own run, of the student alone, of another run."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.checkpoints import state_of
from helpers.errors import ANY, raises_config_error
from mmengine import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import get_state_dict, load_checkpoint, load_state_dict
from mmpretrain.models import ImageClassifier
from torch import nn

from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.models.distillers.other_runs import purpose_of_load

HINT = dict(
    hint=dict(type='Hint', pairs=[dict(student='backbone.layer3', teacher='backbone.layer3')])
)
KD = dict(kd=dict(type='SoftTarget'))


@MODELS.register_module(force=True)
class RenamingClassifier(ImageClassifier):
    """Keys of files have no ``backbone.``, by hooks as those of MMPretrain's TimmClassifier."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._register_state_dict_hook(self._cut)
        self._register_load_state_dict_pre_hook(self._put)

    @staticmethod
    def _cut(module: nn.Module, state: Any, prefix: str, _: Any) -> Any:
        inside = f'^{re.escape(prefix)}backbone[.]'
        return type(state)((re.sub(inside, prefix, k), v) for k, v in state.items())

    @staticmethod
    def _put(state: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in list(state):
            if not name.startswith((f'{prefix}head', f'{prefix}neck')):
                state[f'{prefix}backbone.{name.removeprefix(prefix)}'] = state.pop(name)


RENAMING = dict(tiny.classifier(), type='mmengine.RenamingClassifier', _scope_='mmpretrain')


def stock(config: Any = None) -> nn.Module:
    config = network_config(config or tiny.classifier(), 'x', data_preprocessor=tiny.preprocessor())
    return build_network(config, 'x')


def save(content: Any, folder: Path, name: str = 'a.pth') -> str:
    torch.save(content, folder / name)
    return str(folder / name)


def same(one: nn.Module, other: nn.Module) -> bool:
    return not tiny.differing(one.state_dict(), other.state_dict())


@pytest.fixture
def purpose() -> Iterator[Any]:
    """Set what the Runner's config says about a load."""
    hub = MessageHub.get_current_instance()
    before = hub.runtime_info.copy()

    def say(text: str, iter: int = 0) -> None:
        hub.update_info('cfg', text)
        hub.update_info('iter', iter)

    say('resume = False\n')
    yield say
    hub.runtime_info.clear()
    hub.runtime_info.update(before)


# A class with hooks that rename keys


@pytest.mark.parametrize('collect', [lambda model: model.state_dict(), get_state_dict])
def test_saved_keys_are_those_of_the_students_own_class(collect: Any, tmp_path: Path) -> None:
    distiller = tiny.distiller(tmp_path, student=RENAMING)
    own = list(stock(RENAMING).state_dict())
    assert 'layer1.0.conv1.weight' in own, 'the class renames'
    saved = collect(distiller)
    assert [k[8:] for k in saved if k.startswith('student.')] == own
    assert {k for k in saved if not k.startswith('student.')} == {'record.began', 'teacher_scores'}
    wrapped = nn.ModuleDict(dict(module=distiller)).state_dict()  # as in an averaged model
    assert list(wrapped) == [f'module.{name}' for name in saved]


def test_a_run_of_such_a_class_resumes_to_the_bit_and_exports(tmp_path: Path) -> None:
    config = tiny.distiller_config(tmp_path, student=RENAMING, methods={**HINT, **KD})
    config['methods']['hint']['pairs'][0]['teacher'] = 'backbone.layer3'
    config['teachers'] = config['teachers'][:1]
    hooks = dict(
        custom_hooks=[dict(type='mmkd_plugin.SaveStudent'), dict(type='EMAHook', momentum=0.3)]
    )
    unbroken = tiny.runner(config, tmp_path / 'one', iters=4, **hooks)
    unbroken.train()
    tiny.runner(config, tmp_path / 'two', iters=2, **hooks).train()
    resumed = tiny.runner(config, tmp_path / 'two', iters=4, resume=True, **hooks)
    resumed.train()
    assert same(unbroken.model, resumed.model)
    one, two = (state_of(tmp_path / name / 'iter_4_student.pth') for name in ('one', 'two'))
    assert not tiny.differing(one, two)
    plain = stock(RENAMING)
    load_checkpoint(plain, str(tmp_path / 'two' / 'iter_4_student.pth'), strict=True)
    averaged = {k[8:]: v for k, v in state_of(tmp_path / 'two' / 'iter_4.pth').items()}
    assert not tiny.differing(plain.state_dict(), {k: averaged[k] for k in plain.state_dict()})


def test_peers_of_such_a_class_load_what_they_saved(tmp_path: Path) -> None:
    config = tiny.mutual_config(peers=[dict(name=name, model=RENAMING) for name in 'ab'])
    model, other = (MODELS.build(copy.deepcopy(config)) for _ in range(2))
    saved = get_state_dict(model)
    assert 'peers.b.network.layer1.0.conv1.weight' in saved
    load_state_dict(other, saved, strict=True)
    assert same(model, other)


@MODELS.register_module(force=True)
class AdapterClassifier(ImageClassifier):
    """A hook keeps nothing but the head in the whole state dict, as that of LoRAModel does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._register_state_dict_hook(self._keep_head)

    @staticmethod
    def _keep_head(module: nn.Module, state: Any, *_: Any) -> None:
        for name in [one for one in state if 'head.' not in one]:
            del state[name]


ADAPTER = dict(tiny.classifier(), type='mmengine.AdapterClassifier', _scope_='mmpretrain')


@pytest.mark.parametrize('collect', [lambda model: model.state_dict(), get_state_dict])
def test_a_hook_that_empties_the_whole_state_dict_takes_nothing_of_ours(
    collect: Any, tmp_path: Path
) -> None:
    saved = collect(tiny.distiller(tmp_path, student=ADAPTER))
    head = {'student.head.fc.weight', 'student.head.fc.bias'}
    assert set(saved) == head | {'record.began', 'teacher_scores'}
    peers = [dict(name='a', model=tiny.classifier()), dict(name='b', model=ADAPTER)]
    saved = collect(MODELS.build(tiny.mutual_config(peers=peers)))
    assert 'peers.a.network.backbone.layer1.0.conv1.weight' in saved
    assert 'peers.b.network.backbone.layer1.0.conv1.weight' not in saved


# The checkpoint of the student alone


@pytest.mark.parametrize('config', [tiny.classifier(), RENAMING], ids=['plain', 'renaming'])
@pytest.mark.parametrize('form', ['state_dict', 'model', 'module.', 'bare'])
def test_a_students_checkpoint_begins_the_student_and_nothing_else(
    config: Any, form: str, tmp_path: Path, purpose: Any
) -> None:
    distiller = tiny.distiller(tmp_path, student=config, teachers=tiny.teachers(tmp_path, 1))
    source = tiny.network(config, seed=5)
    state: Any = source.state_dict()
    if form == 'module.':
        state = {f'module.{name}': value for name, value in state.items()}
    before = tiny.weights_of(distiller)
    content = state if form in ('bare', 'module.') else {form: state}
    load_checkpoint(distiller, save(content, tmp_path))
    assert same(distiller.student, source)
    after = distiller.state_dict()
    assert not [name for name in tiny.differing(before, after) if not name.startswith('student.')]


def test_a_head_of_other_classes_stays_and_the_rest_is_loaded(tmp_path: Path, purpose: Any) -> None:
    distiller = tiny.distiller(tmp_path)
    head = distiller.student.head.fc.weight.clone()
    source = tiny.network(tiny.classifier(classes=9), seed=5)
    load_checkpoint(distiller, save(source.state_dict(), tmp_path))
    assert same(distiller.student.backbone, source.backbone)
    assert torch.equal(distiller.student.head.fc.weight, head)


@pytest.mark.parametrize(
    ('prefix', 'fix'),
    [('', 'Pretrained'), ('peers.a.network.', '--network a'), ('x.', 'Pretrained')],
)
def test_a_checkpoint_without_a_weight_of_the_student_is_refused(
    prefix: str, fix: str, tmp_path: Path, purpose: Any
) -> None:
    state = stock().backbone.state_dict()
    path = save({f'{prefix}{name}': value for name, value in state.items()}, tmp_path)
    with raises_config_error('load_from', fix=fix):
        load_checkpoint(tiny.distiller(tmp_path), path)


def test_versions_of_the_students_modules_come_along(tmp_path: Path, purpose: Any) -> None:
    seen: list[Any] = []
    distiller = tiny.distiller(tmp_path)
    distiller.student.head._register_load_state_dict_pre_hook(
        lambda state, prefix, metadata, *_: seen.append(metadata.get('version'))
    )
    state = stock().state_dict()
    state._metadata['head'] = dict(version=7)
    load_state_dict(distiller, state)
    assert seen == [7]


def test_a_run_does_not_resume_from_a_student_alone(tmp_path: Path, purpose: Any) -> None:
    purpose('resume = True\n')
    with raises_config_error('resume', fix='load_from'):
        load_state_dict(tiny.distiller(tmp_path), stock().state_dict())


def test_a_runner_begins_with_the_student_that_load_from_names(tmp_path: Path) -> None:
    source = tiny.network(tiny.classifier(), seed=5)
    path = save(dict(state_dict=source.state_dict()), tmp_path)
    run = tiny.runner(tiny.distiller_config(tmp_path), tmp_path / 'run', load_from=path)
    run.load_or_resume()
    assert same(run.model.student, source)


# The checkpoint of another run


def other_run(folder: Path, **changes: Any) -> tuple[nn.Module, str]:
    """Return a distiller and its checkpoint; its teachers are not those of later ones."""
    model = tiny.distiller(folder, **changes)
    model.student.load_state_dict(tiny.network(tiny.classifier(), seed=7).state_dict())
    return model, save(dict(state_dict=model.state_dict()), folder, 'run.pth')


def test_load_from_a_run_with_other_teachers_begins_with_its_student(
    tmp_path: Path, purpose: Any
) -> None:
    before, path = other_run(tmp_path, teachers=tiny.teachers(tmp_path, 2))
    distiller = tiny.distiller(tmp_path, teachers=tiny.teachers(tmp_path, 1), methods=HINT)
    hint = tiny.weights_of(distiller.methods)
    load_checkpoint(distiller, path)
    assert same(distiller.student, before.student)
    assert not tiny.differing(hint, distiller.methods.state_dict())
    tiny.losses_of(distiller.train())  # it began, and nothing was resumed


def test_a_script_that_resumes_such_a_run_all_the_same_is_refused_at_the_first_step(
    tmp_path: Path, purpose: Any
) -> None:
    _, path = other_run(tmp_path, teachers=tiny.teachers(tmp_path, 2))
    distiller = tiny.distiller(tmp_path, teachers=tiny.teachers(tmp_path, 1))
    load_checkpoint(distiller, path)
    purpose('resume = False\n', iter=12)
    with raises_config_error('teachers', fix='Put the files'):
        tiny.losses_of(distiller.train())


@pytest.mark.parametrize('text', ['resume = True\n', ''])
def test_a_resume_with_other_teachers_is_refused(text: str, tmp_path: Path, purpose: Any) -> None:
    purpose(text)
    _, path = other_run(tmp_path, teachers=tiny.teachers(tmp_path, 2))
    with raises_config_error('teachers', fix='Put the files'):
        load_checkpoint(tiny.distiller(tmp_path, teachers=tiny.teachers(tmp_path, 1)), path)


def two_hints(first: str, second: str) -> dict[str, Any]:
    return {first: HINT['hint'], second: HINT['hint']}


@pytest.mark.parametrize(
    ('saved', 'present', 'words'),
    [
        (KD, HINT, 'it began with no parameters (found'),
        (HINT, KD, "(found 'no parameters')"),
        (two_hints('a', 'b'), two_hints('b', 'a'), 'a ('),
        (HINT, {'other': HINT['hint']}, 'other ('),
    ],
)
def test_a_resume_with_other_methods_names_both(
    saved: Any, present: Any, words: str, tmp_path: Path, purpose: Any
) -> None:
    purpose('resume = True\n')
    teachers = tiny.teachers(tmp_path, 1)
    _, path = other_run(tmp_path, teachers=teachers, methods=saved)
    with raises_config_error('methods', ANY, words, fix='load_from='):
        load_checkpoint(tiny.distiller(tmp_path, teachers=teachers, methods=present), path)


def test_a_resumed_runner_with_other_methods_is_refused_before_its_optimizer(
    tmp_path: Path,
) -> None:
    teachers = tiny.teachers(tmp_path, 1)
    config = tiny.distiller_config(tmp_path, teachers=teachers)
    tiny.runner(config, tmp_path / 'run').train()
    changed = {**config, 'methods': HINT}
    run = tiny.runner(
        changed, tmp_path / 'run', iters=4, resume=True, cfg=Config(dict(resume=True))
    )
    with raises_config_error('methods', fix='load_from='):
        run.train()


def test_the_purpose_of_a_load_is_that_of_the_runners_config(purpose: Any) -> None:
    for text, expected in (
        ('resume = True\nx = 1', 'resume'),
        ('a = dict(\n    resume = True)\nresume = False', 'load_from'),
        ('model = dict()\n', 'load_from'),
        ('', 'unknown'),
    ):
        purpose(text)
        assert purpose_of_load() == expected


def test_a_single_network_does_not_begin_peers(tmp_path: Path) -> None:
    path = save(stock().state_dict(), tmp_path)
    with raises_config_error('load_from', fix='checkpoint='):
        load_checkpoint(MODELS.build(tiny.mutual_config()), path)


def test_a_peer_begins_with_the_part_of_a_file_that_its_entry_names(tmp_path: Path) -> None:
    source = tiny.network(tiny.classifier(), seed=5)
    state = {f'architecture.{name}': value for name, value in source.state_dict().items()}
    named = dict(checkpoint_key='best', checkpoint_prefix='architecture.')
    path = save(dict(best=state, last=source.state_dict()), tmp_path)
    peers = [dict(name='a', model=tiny.classifier(), checkpoint=path, **named)]
    config = tiny.mutual_config(peers=[*peers, dict(name='b', model=tiny.classifier())])
    assert same(MODELS.build(config).network('a'), source)
