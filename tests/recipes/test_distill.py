"""From a student's config and teachers' files to a config that trains."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import classification as tiny
from helpers import detection as small
from helpers.checkpoints import state_of
from helpers.errors import ANY, raises_config_error
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

import mmkd_plugin
from mmkd_plugin.engine import PeerOptimWrappers
from mmkd_plugin.engine.stages import load_stages, train_stages
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.recipes import cli
from mmkd_plugin.recipes.distill import plan
from mmkd_plugin.recipes.table import RECIPES
from mmkd_plugin.recipes.text import Code, to_text
from mmkd_plugin.registry import MODELS

REGISTERED = [name for name, one in RECIPES.items() if MODELS.get(one.config['type'])]
#: Methods that a classifier cannot have, or that need taps of the user.
NOT_ON_CLASSIFIERS = ('fgd', 'bckd', 'od', 'ld', 'crosskd')
ON_DETECTORS = (
    'kd',
    'hint',
    'at',
    'pkd',
    'cwd',
    'mgd',
    'fgd',
    'ie-at',
    'amtml',
    'logit',
    'bckd',
    'ld',
    'crosskd',
)


class House:
    """A folder with the config of a student and two teachers, as a user has them."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        loader = dict(batch_size=8, num_workers=0, dataset=dict(type='TinyImages'))
        config = dict(
            model=dict(tiny.classifier(), data_preprocessor=tiny.preprocessor()),
            train_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=True)),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1),
                logger=dict(type='LoggerHook', interval=1),
            ),
            default_scope='mmpretrain',
            **tiny.validation(),
        )
        self.student = self.write('student', {**config, **changes})
        self.teachers = []
        for index in range(2):
            network = tiny.classifier(base_channels=6)
            path = self.write(f'teacher{index}_big', dict(config, model=network))
            checkpoint = tiny.checkpoint(folder, network, seed=index + 1)
            self.teachers.append((path, checkpoint))

    def write(self, name: str, config: dict[str, Any]) -> str:
        path = self.folder / f'{name}.py'
        Config(copy.deepcopy(config)).dump(path)
        return str(path)

    def plan(self, method: str, teachers: int = 1, **options: Any) -> Any:
        return plan(self.student, self.teachers[:teachers], method, **options)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def built(found: Any) -> Any:
    config = Config.fromstring(found.texts[found.name], '.py')
    return ROOT_MODELS.build(config.model)


@pytest.mark.parametrize(
    'method',
    [
        name
        for name in REGISTERED
        if name not in NOT_ON_CLASSIFIERS
        and not RECIPES[name].mutual
        and not RECIPES[name].paraphraser
    ],
)
def test_config_of_every_method_trains_a_classifier(method: str, house: House) -> None:
    model = built(house.plan(method, 2)).train()
    model.set_teacher_scores([1.0, 0.5])
    if method == 'logit':
        assert list(model.methods) == ['logit']
    total, logged = model.parse_losses(tiny.losses_of(model))
    total.backward()
    assert any(key.startswith(f'{method.replace("-", "_")}.loss') for key in logged)


@pytest.mark.parametrize('method', ON_DETECTORS)
def test_config_of_a_method_trains_a_detector(method: str, tmp_path: Path) -> None:
    detector = small.detector('gfl')
    path = tmp_path / 'gfl.py'
    Config(dict(model=ConfigDict(copy.deepcopy(detector)), default_scope='mmdet')).dump(path)
    init_default_scope('mmdet')
    teacher = small.checkpoint(tmp_path, detector, 1)
    model = built(plan(str(path), [(str(path), teacher)], method)).train()
    model.set_teacher_scores([1.0])
    found = small.losses_of(model, small.batch_for('gfl'))
    assert any(key.startswith(f'{method.replace("-", "_")}.loss') for key in found)


def test_written_config_is_short_and_trains_to_the_end(house: House) -> None:
    found = plan(
        house.student,
        house.teachers[:1],
        'kd',
        settings=dict(temperature=2.0),
        options={'train_cfg.max_epochs': 2},
        folder=house.folder / 'out',
    )
    [path] = found.write(house.folder / 'out')
    assert path.name == 'kd_teacher0_student.py'
    text = path.read_text()
    assert text.startswith("_base_ = '../student.py'\n") and len(text.splitlines()) < 25
    train_stages(load_stages([str(path)], str(house.folder / 'run')))
    state = state_of(house.folder / 'run' / 'epoch_2.pth')
    own = {key.removeprefix('student.') for key in state if key.startswith('student.')}
    exported = state_of(house.folder / 'run' / 'epoch_2_student.pth')
    assert exported.keys() == own == tiny.network(tiny.classifier()).state_dict().keys()


@pytest.mark.slow
def test_stages_of_ie_kd_train_one_after_the_other(house: House) -> None:
    root = house.folder / 'runs'
    found = house.plan('ie', folder=house.folder, work_dir=str(root))
    paths = found.write(house.folder)
    assert [path.name.split('_')[0] for path in paths] == ['paraphraser', 'ie']
    train_stages(load_stages([str(path) for path in paths], str(root)))
    assert (root / paths[1].stem / 'epoch_1.pth').exists()


@pytest.mark.parametrize(
    ('method', 'loss'), [('mutual', 'mutual.loss_kd'), ('ie-dml', 'ie_dml.loss_inherit')]
)
def test_peers_learn_from_each_other(method: str, loss: str, house: House) -> None:
    other = house.write('other', dict(model=tiny.classifier(depth=14), default_scope='mmpretrain'))
    found = plan(house.student, [], method, [house.teachers[0][0], other])
    config = Config.fromstring(found.texts[found.name], '.py')
    assert config.val_cfg.type == 'mmkd_plugin.PeerValLoop'
    model = ROOT_MODELS.build(dict(config.model, data_preprocessor=tiny.preprocessor())).train()
    assert [*model.peers] == ['student', 'teacher0', 'other']
    wrappers = PeerOptimWrappers(dict(optimizer=config.optim_wrapper.optimizer))(model)
    assert config.optim_wrapper.constructor == 'mmkd_plugin.PeerOptimWrappers'
    logged = model.train_step(tiny.batch_of(), wrappers)
    for name in model.peers:
        assert logged[f'{name}.{loss}'] > 0


def test_peers_of_other_families_have_taps_of_their_own(tmp_path: Path) -> None:
    house = House(tmp_path)
    convnext = dict(
        type='ImageClassifier',
        backbone=dict(type='ConvNeXt', arch='atto'),
        head=dict(type='LinearClsHead', num_classes=tiny.CLASSES, in_channels=320),
    )
    other = house.write('convnext', dict(model=convnext, default_scope='mmpretrain'))
    found = plan(house.student, [], 'ie-dml', [other], settings=dict(knowledge='attention'))
    assert "pairs='last'" in found.texts[found.name] and len(found.taps) == 1
    model = built(found)
    taps = {name: peer.methods.ie_dml.pairs[0].student for name, peer in model.peers.items()}
    assert taps == dict(student='backbone.layer3', convnext='backbone.stages.3')


def test_hooks_of_the_student_stay_and_ours_are_added(tmp_path: Path) -> None:
    own = dict(type='EMAHook')
    decays = dict(optimizer=dict(type='SGD', lr=0.05, weight_decay=1e-4))
    house = House(tmp_path, custom_hooks=[own], optim_wrapper=decays)
    found = house.plan('amtml', 2)
    config = Config.fromstring(found.texts[found.name], '.py')
    names = [hook['type'].removeprefix('mmkd_plugin.') for hook in config.custom_hooks]
    assert names == ['EMAHook', 'EvaluateTeachers', 'LogTeacherWeights', 'SaveStudent']
    assert config.optim_wrapper.paramwise_cfg.custom_keys['weighting'] == dict(decay_mult=0.0)
    assert config.optim_wrapper.optimizer.lr == 0.05


def test_config_without_validation_evaluates_no_teacher(tmp_path: Path) -> None:
    house = House(tmp_path, val_cfg=None, val_dataloader=None, val_evaluator=None)
    assert 'EvaluateTeachers' not in next(iter(house.plan('kd').texts.values()))


def test_options_change_any_key_of_the_config(house: House) -> None:
    options = {'model.task_weight': 0.5, 'custom_hooks': [], 'optim_wrapper.optimizer.lr': 0.3}
    options['optim_wrapper.optimizer.weight_decay'] = 1e-4
    found = house.plan('amtml', 2, options=options)
    text = found.texts[found.name]
    assert text.count('model = ') == 1 and text.count('custom_hooks') == 1
    config = Config.fromstring(text, '.py')
    assert config.model.type == 'mmkd_plugin.Distiller' and config.model.task_weight == 0.5
    assert config.custom_hooks == []
    assert config.optim_wrapper.optimizer == dict(type='SGD', lr=0.3, weight_decay=1e-4)
    assert 'weighting' in config.optim_wrapper.paramwise_cfg.custom_keys


def test_unknown_option_of_the_model_is_one_error(house: House) -> None:
    with raises_config_error('cfg.model', ANY, 'tsak_weight'):
        house.plan('kd', options={'model.tsak_weight': 0.5})


def test_function_of_the_package_returns_the_config(house: House) -> None:
    config = mmkd_plugin.distill(house.student, house.teachers, 'hint', pairs='stages')
    pairs = config.model.methods.hint.pairs
    assert [(pair.student, pair.get('index', 0)) for pair in pairs] == [
        (f'backbone.layer{level}', index) for index in (0, 1) for level in (1, 2, 3)
    ]
    assert config.train_dataloader.batch_size == 8


# Refused


@pytest.mark.parametrize(
    ('method', 'options', 'key', 'words'),
    [
        ('kdd', {}, 'method', ('nearest are', 'kd')),
        ('ld2', {}, 'method', ('All are',)),
        ('kd', dict(settings=dict(tau=2.0)), 'methods.kd.tau', ('temperature',)),
        ('kd', dict(settings=dict(temperature=-1.0)), 'methods.kd.temperature', ()),
        ('hint', dict(settings=dict(pairs='neck')), 'methods.hint.pairs', ('neck',)),
        ('kd', dict(teachers=0), 'teacher', ('--teacher',)),
        ('mutual', {}, 'peer', ('--peer',)),
        ('kd', dict(peers=['x.py']), 'teacher', ('--peer',)),
        ('KD', {}, 'method', ("nearest are 'kd'.",)),
        ('SoftTarget', {}, 'method', ("nearest are 'kd', 'mutual'.",)),
        ('od', {}, 'methods.od.pairs', ('--set "pairs=[', "'norm': PATH")),
    ],
)
def test_fault_is_found_before_anything_is_written(
    method: str, options: Any, key: str, words: Any, house: House
) -> None:
    before = sorted(house.folder.iterdir())
    with raises_config_error(key, ANY, *words):
        house.plan(method, **options)
    assert sorted(house.folder.iterdir()) == before


def test_checkpoint_of_another_network_is_refused(house: House) -> None:
    wrong = house.teachers[0][0], tiny.checkpoint(house.folder, tiny.classifier(), seed=5)
    with raises_config_error('teachers[0] (teacher0).checkpoint', ANY):
        plan(house.student, [wrong], 'kd')


@pytest.mark.parametrize('method', ['kd', 'ie'])
def test_missing_checkpoint_is_refused(method: str, house: House) -> None:
    with pytest.raises(ConfigError, match=r'nowhere.pth.*No file'):
        plan(house.student, [(house.teachers[0][0], 'nowhere.pth')], method)


def test_file_that_is_there_is_kept_without_force(house: House) -> None:
    found = house.plan('kd')
    [path] = found.write(house.folder)
    path.write_text('mine')
    with raises_config_error('out', str(path), fix='--force'):
        found.write(house.folder)
    assert path.read_text() == 'mine'
    found.write(house.folder, force=True)
    assert path.read_text() != 'mine'


def test_folder_that_is_a_file_is_refused(house: House) -> None:
    (house.folder / 'taken').write_text('')
    with raises_config_error('out', str(house.folder / 'taken'), 'folder'):
        house.plan('kd').write(house.folder / 'taken')


def test_student_that_distils_already_is_refused(house: House) -> None:
    [path] = house.plan('kd').write(house.folder)
    with raises_config_error('student', str(path), 'inherits'):
        plan(str(path), house.teachers[:1], 'at')


def test_option_that_does_not_fit_is_refused(house: House) -> None:
    with raises_config_error('cfg.custom_hooks.first', 3, 'does not fit', fix='number'):
        house.plan('kd', options={'custom_hooks.first': 3})


def test_option_that_adds_a_key_is_named(house: House) -> None:
    options = {'train_cfg.max_epoch': 3, 'train_cfg.max_epochs': 2, 'trian_cfg.max_epochs': 3}
    notes = house.plan('kd', options=options).taps
    assert len(notes) == 2
    assert 'cfg.train_cfg.max_epoch is new' in notes[0] and "'max_epochs'" in notes[0]
    assert 'cfg.trian_cfg.max_epochs is new' in notes[1] and "'train_cfg'" in notes[1]


def test_teachers_of_one_config_get_names_of_their_own(house: House) -> None:
    model = built(plan(house.student, [house.teachers[0]] * 2, 'kd'))
    assert [one.name for one in model.teachers] == ['teacher0-0', 'teacher0-1']


# The command


def test_command_prints_and_writes(
    house: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(house.folder)
    config, checkpoint = house.teachers[0]
    base = [house.student, '--teacher', config, checkpoint, '--method', 'at']
    cli.run_distill([*base, '--set', 'loss_weight=5.0', 'cfg.train_cfg.max_epochs=3', '--dry-run'])
    shown = capsys.readouterr().out
    assert "pairs 'backbone.layer1' (4, 64, 64) of student with" in shown
    assert 'loss_weight=5.0' in shown
    assert 'max_epochs=3' in shown and not list(house.folder.glob('at_*'))
    cli.run_distill([*base, '--work-dir', 'runs'])
    shown = capsys.readouterr().out
    assert 'at_teacher0_student.py --work-dir runs/at_teacher0_student' in shown
    assert (house.folder / 'at_teacher0_student.py').exists()


@pytest.mark.parametrize(
    ('called', 'train'),
    [
        ('mmkd distill', 'mmkd train'),
        ('../clone/tools/distill.py', 'python ../clone/tools/train.py'),
    ],
)
def test_printed_command_can_be_run_where_the_first_one_was(
    called: str,
    train: str,
    house: House,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, 'argv', [called])
    config, checkpoint = house.teachers[0]
    folder = house.folder / 'my configs'
    words = [house.student, '--teacher', config, checkpoint, '--out', str(folder)]
    cli.run_distill(words)
    command = capsys.readouterr().out.splitlines()[-1].strip()
    assert command == f"{train} '{folder / 'kd_teacher0_student.py'}'"


def test_error_of_training_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmkd', 'train', 'nowhere.py'])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 1
    assert capsys.readouterr().err.startswith('error: config: must be the path of a config file')


def test_error_of_the_command_is_one_line(house: House) -> None:
    tool = Path(__file__).parents[2] / 'tools' / 'distill.py'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', tool, house.student, '--method', 'amtm'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1].startswith('error: method: is unknown')


@pytest.mark.parametrize('name', ['distill', 'train'])
def test_installed_command_has_both_parts(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmkd', name, '--help'])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 0 and 'usage: ' in capsys.readouterr().out


def test_text_of_a_config_is_what_it_was_made_from() -> None:
    value = dict(
        a=[1, 2.5, None, (3,)],
        b={'x.y': dict(type='Long' * 30), 'other': []},
        c=dict(deep=dict(deeper=['word' * 10] * 5)),
    )
    assert eval(to_text(value)) == value
    assert max(map(len, to_text(value['c']).splitlines())) <= 100
    assert to_text(dict(model=Code('_base_.model'))) == 'dict(model=_base_.model)'


@pytest.mark.parametrize(
    ('optimizer', 'states', 'keeps'),
    [
        (dict(type='SGD', lr=0.1), None, False),  # it has none: MMEngine refuses a multiplier
        (dict(type='SGD', lr=0.1, weight_decay=1e-4), None, True),
        (dict(type='AdamW', lr=0.1), 0.01, True),
    ],
)
def test_decay_is_kept_off_learned_weights(
    optimizer: dict[str, Any], states: float | None, keeps: bool, house: House
) -> None:
    path = house.folder / 'plain.py'
    changed = Config.fromfile(house.student)
    changed.optim_wrapper = dict(optimizer=optimizer)
    changed.dump(path)
    found = plan(str(path), house.teachers, 'amtml')
    wrapper = Config.fromstring(found.texts[found.name], '.py').optim_wrapper
    assert wrapper.optimizer.get('weight_decay') == (states or optimizer.get('weight_decay'))
    assert ('paramwise_cfg' in wrapper) == keeps
    if keeps:
        assert wrapper.paramwise_cfg.custom_keys.weighting.decay_mult == 0
