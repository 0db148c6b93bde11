"""What a user gets wrong: one clear error before the first step, that names the key, what was expected and what was found."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny

NAN = float('nan')


def hint(
    student: str = 'backbone.layer2', teacher: str = 'backbone.layer3', **extra: Any
) -> dict[str, Any]:
    return dict(h=dict(type='Hint', pairs=[dict(student=student, teacher=teacher, **extra)]))


def refused(folder: Path, message: str, **changes: Any) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        tiny.distiller(folder, **changes)
    assert '\n' not in str(caught.value), 'one line'


@pytest.mark.parametrize('given', [[], None, ()])
def test_no_teachers(tmp_path: Path, given: Any) -> None:
    refused(tmp_path, r'^teachers: expected a list of at least one teacher, got', teachers=given)
    off = dict(kd=dict(type='SoftTarget', loss_weight=0))
    refused(
        tmp_path,
        r'^teachers: expected a list of at least one teacher, got',
        teachers=given,
        methods=off,
    )


def teacher(checkpoint: str, **extra: Any) -> list[dict[str, Any]]:
    return [dict(name='big', model=tiny.classifier(), checkpoint=checkpoint, **extra)]


def test_missing_checkpoint(tmp_path: Path) -> None:
    refused(
        tmp_path,
        rf'^teachers\[0\] \(big\)\.checkpoint: expected a checkpoint file or URL, found no file at {tmp_path}/none.pth$',
        teachers=teacher(str(tmp_path / 'none.pth')),
    )


def test_truncated_checkpoint(tmp_path: Path) -> None:
    path = Path(tiny.checkpoint(tmp_path))
    path.write_bytes(path.read_bytes()[:-100])
    message = rf'^teachers\[0\] \(big\)\.checkpoint: expected a checkpoint, got a damaged or truncated file {path} \('
    refused(tmp_path, message, teachers=teacher(str(path)))


def test_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    path = tiny.checkpoint(tmp_path, tiny.classifier(depth=14))
    message = (
        rf'^teachers\[0\] \(big\)\.checkpoint: expected the weights of this very model, got {path} with 0 keys missing, '
        r'36 keys unexpected \(backbone\.layer1\.1.*, … 33 more\), 0 keys of another shape'
    )
    refused(tmp_path, message, teachers=teacher(path))


def test_checkpoint_of_another_class_count(tmp_path: Path) -> None:
    path = tiny.checkpoint(tmp_path, tiny.classifier(classes=7))
    message = r'^teachers\[0\] \(big\)\.checkpoint: .* 2 keys of another shape \(size mismatch for head\.fc\.weight.*\[7, 16\].*\[4, 16\]'
    refused(tmp_path, message, teachers=teacher(path))


def test_a_pickle_that_wants_to_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f'touch {tmp_path}/trace',)

    torch.save(dict(state_dict=Evil()), tmp_path / 'evil.pth')
    message = (
        r'^teachers\[0\] \(big\)\.checkpoint: .* a pickle that wants to run code: .*posix\.system'
    )
    refused(tmp_path, message, teachers=teacher(str(tmp_path / 'evil.pth')))
    assert not (tmp_path / 'trace').exists()


@pytest.mark.parametrize(
    ('methods', 'message'),
    [
        (
            hint(student='backbone.layer4'),
            r"^methods\.h\.student_taps: expected the path of a module of ImageClassifier, got 'backbone\.layer4'; the nearest are "
            r"'backbone\.layer3', 'backbone\.layer2', 'backbone\.layer1'",
        ),
        (
            hint(teacher='bakbone.layer1'),
            r'^methods\.h\.teacher_taps of teachers\[0\] \(t0\): expected the path of a module of ImageClassifier, '
            r"got 'bakbone\.layer1'; the nearest are 'backbone\.layer1'",
        ),
        (
            hint(student='backbone[1]'),
            r"^student taps: expected one tensor from 'backbone\[1\]', got 1: name one as backbone\[0\]",
        ),
        (
            hint(student='backbone.layer3.0.conv1.x'),
            r"^methods\.h\.student_taps: .* the nearest are 'backbone\.layer3\.0\.conv1'",
        ),
    ],
)
def test_a_tap_that_does_not_exist(tmp_path: Path, methods: dict[str, Any], message: str) -> None:
    refused(tmp_path, message, methods=methods)


def stock_resnet(**extra: Any) -> dict[str, Any]:
    """MMPretrain's: its blocks call one ReLU twice, in place."""
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=4, in_channels=64, loss=dict(type='CrossEntropyLoss')
        ),
        **extra,
    )


@pytest.mark.parametrize('side', ['student', 'teacher'])
@pytest.mark.parametrize(
    ('tap', 'message'),
    [
        (
            'backbone.layer1.0.relu',
            r"taps: expected 'backbone\.layer1\.0\.relu' to be called once in a forward, it was called again",
        ),
        (
            'backbone.layer1.0.bn1',
            r"taps: expected the output of 'backbone\.layer1\.0\.bn1' to stay as it was .* changed in place",
        ),
    ],
)
def test_a_tap_called_twice_or_changed_in_place(
    tmp_path: Path, side: str, tap: str, message: str
) -> None:
    if side == 'student':
        refused(tmp_path, f'^student {message}', student=stock_resnet(), methods=hint(student=tap))
    else:
        taught = [
            dict(
                name='stock',
                model=stock_resnet(),
                checkpoint=tiny.checkpoint(tmp_path, stock_resnet()),
            )
        ]
        methods = dict(**hint(teacher=tap), kd=dict(type='SoftTarget'))
        refused(tmp_path, rf'^teachers\[0\] \(stock\) {message}', teachers=taught, methods=methods)


@pytest.mark.parametrize(
    ('methods', 'message'),
    [
        (
            hint(student_channels=16),
            r'^methods\.h\.pairs\[0\]\.student_channels: expected 16 channels as the config states, the tap gives \(1, 8, ',
        ),
        (
            hint(teacher_channels=16),
            r'^methods\.h\.pairs\[0\]\.teacher_channels: expected 16 channels as the config states, the tap gives \(1, 24, ',
        ),
        (
            dict(a=tiny.amtml(teacher_channels=[24, 32])),
            r'^methods\.a\.teacher_channels\[1\]: expected 32 channels as the config states, the tap gives \(1, 24, ',
        ),
    ],
)
def test_channels_that_do_not_match(tmp_path: Path, methods: dict[str, Any], message: str) -> None:
    refused(tmp_path, message, methods=methods)


def test_different_numbers_of_classes(tmp_path: Path) -> None:
    other = tiny.classifier(classes=7)
    taught = [dict(name='seven', model=other, checkpoint=tiny.checkpoint(tmp_path, other))]
    message = r'^teachers\[0\] \(seven\): expected the 4 classes of the student, got 7; say which are meant: class_map='
    refused(tmp_path, message, teachers=taught)
    tiny.distiller(tmp_path, teachers=taught, methods=hint())  # taps alone ask for no classes


def test_more_teachers_than_groups(tmp_path: Path) -> None:
    refused(
        tmp_path,
        r'^methods\.a\.student_groups: expected at least one group for each of 4 teachers, got 3 groups$',
        teachers=tiny.teachers(tmp_path, 4),
        methods=dict(a=tiny.amtml(mapping='random')),
    )


@pytest.mark.parametrize(
    ('methods', 'message'),
    [
        (
            dict(kd=dict(type='SoftTarget', temperature=0)),
            r'^methods\.kd\.temperature: expected a number > 0, got 0$',
        ),
        (
            dict(a=tiny.amtml(temperature=-5)),
            r'^methods\.a\.temperature: expected a number > 0, got -5$',
        ),
        (
            dict(kd=dict(type='SoftTarget', loss_weight=-1)),
            r'^methods\.kd\.loss_weight: expected a number >= 0, got -1$',
        ),
        (
            dict(a=tiny.amtml(hint_weight=-0.5)),
            r'^methods\.a\.hint_weight: expected a number >= 0, got -0\.5$',
        ),
        (
            dict(kd=dict(type='SoftTarget', temperature=NAN)),
            r'^methods\.kd\.temperature: expected a number, got nan$',
        ),
        (
            dict(a=tiny.amtml(weighting=dict(type='LatentTeacherWeighting', init_std=NAN))),
            r'^methods\.a\.weighting\.init_std: expected a number, got nan$',
        ),
        (
            dict(a=tiny.amtml(mapping=[0, 0])),
            r'^methods\.a\.mapping: expected 2 different indices below 3, got \[0, 0\]$',
        ),
        (
            dict(kd=dict(type='SoftTarget', tau=4)),
            r"^methods\.kd\..*unexpected keyword argument 'tau'",
        ),
        (
            dict(kd=dict(type='SoftTargets')),
            r"^methods\.kd\.type: expected a registered method, got 'SoftTargets'$",
        ),
        (dict(kd=dict(type='AngleLoss')), r'^methods\.kd\.type: expected a method, got AngleLoss$'),
        (dict(kd=dict(temperature=4)), r'^methods\.kd: expected a config with a "type", got \{'),
        (dict(), r'^methods: expected dict\(name=dict\(type='),
        ([dict(type='SoftTarget')], r'^methods: expected dict\(name=dict\(type='),
        (
            {'my_loss': dict(type='SoftTarget')},
            r"^methods\.my_loss: expected a name that is a word, without 'loss'",
        ),
        (
            {'task': dict(type='SoftTarget')},
            r"^methods\.task: expected a name .* not 'task', .* got 'task'",
        ),
        ({'a.b': dict(type='SoftTarget')}, r'^methods\.a\.b: expected a name that is a word'),
        ({'keys': dict(type='SoftTarget')}, r'^methods\.keys: expected a name'),
    ],
)
def test_numbers_and_words_in_methods(tmp_path: Path, methods: Any, message: str) -> None:
    refused(tmp_path, message, methods=methods)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(task_weight=-1), r'^task_weight: expected a number >= 0, got -1$'),
        (dict(task_weight=NAN), r'^task_weight: expected a number >= 0, got nan$'),
        (
            dict(student=tiny.classifier(train_cfg=dict(a=[NAN]))),
            r'^student\.train_cfg\.a\[0\]: expected a number, got nan$',
        ),
        (
            dict(cfg_options={'model.a': NAN}),
            r'^cfg_options\.model\.a: expected a number, got nan$',
        ),
        (
            dict(data_preprocessor=dict(mean=[NAN] * 3)),
            r'^data_preprocessor\.mean\[0\]: expected a number, got nan$',
        ),
        (
            dict(task_weight=0, methods=dict(kd=dict(type='SoftTarget', loss_weight=0))),
            r'^task_weight: expected a number > 0 where no method has a weight, got 0: nothing would be trained$',
        ),
        (dict(student='none.py'), r'^student: expected a config file, found none at none\.py$'),
        (
            dict(probe_shape=(3, 8)),
            r'^probe_shape: expected \(channels, height, width\), got \(3, 8\)$',
        ),
    ],
)
def test_numbers_and_words_in_the_distiller(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    refused(tmp_path, message, **changes)


def test_nan_in_a_teacher(tmp_path: Path) -> None:
    taught = tiny.teachers(tmp_path, 1, data_preprocessor=dict(mean=[NAN] * 3, std=[1.0] * 3))
    refused(
        tmp_path,
        r'^teachers\[0\]\.data_preprocessor\.mean\[0\]: expected a number, got nan$',
        teachers=taught,
    )


def test_data_without_labels_while_the_task_loss_is_on(tmp_path: Path) -> None:
    run = tiny.runner(
        tiny.distiller_config(tmp_path),
        tmp_path / 'run',
        dataset=dict(type='TinyImages', labels=False),
    )
    before = tiny.weights_of(run.model)
    run.model.init_weights = lambda: None
    message = r'^task_weight: expected labels in the training data for the task loss .* set task_weight=0 to train without labels$'
    with pytest.raises(ValueError, match=message):
        run.train()
    assert all(
        torch.equal(before[n].nan_to_num(), v.nan_to_num())
        for n, v in run.model.state_dict().items()
    )


@pytest.mark.parametrize(
    'amtml', [dict(objective='label'), dict(weighting=dict(type='ConfidenceTeacherWeighting'))]
)
def test_data_without_labels_for_a_method_that_needs_them(
    tmp_path: Path, amtml: dict[str, Any]
) -> None:
    model = tiny.distiller(tmp_path, task_weight=0, methods=dict(a=tiny.amtml(**amtml)))
    with pytest.raises(
        ValueError, match=r'^methods\.a: expected labels in the training data, got a batch without$'
    ):
        tiny.losses_of(model, tiny.batch_of(labels=False))


@pytest.mark.slow
@pytest.mark.parametrize('missing', ['mmengine', 'both hosts'])
def test_hosts_missing(missing: str) -> None:
    names = ['mmpretrain', 'mmdet'] if missing == 'both hosts' else [missing]
    code = (
        'import importlib.util, sys\n'
        'find = importlib.util.find_spec\n'
        f'importlib.util.find_spec = lambda name, package=None: None if name in {names} else find(name, package)\n'
        'import mmkd_plugin\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    expected = (
        'mmpretrain or mmdet, and neither is installed'
        if len(names) == 2
        else f'{missing}, which is not installed'
    )
    assert f'ImportError: mmkd_plugin needs {expected}: pip install' in result.stderr


@pytest.mark.parametrize('left_over', [1, 2])
def test_a_last_batch_of_one_or_two_images_is_no_bad_input(tmp_path: Path, left_over: int) -> None:
    loader = dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(type='TinyImages', length=8 + left_over),
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    methods = dict(amtml=tiny.amtml(objective='label'), kd=dict(type='SoftTarget'), **hint())
    config = tiny.distiller_config(tmp_path, methods=methods)
    run = tiny.runner(
        config,
        tmp_path / 'run',
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
    )
    run.train()
    assert run.iter == 3
    assert all(value.nan_to_num().isfinite().all() for value in run.model.state_dict().values())
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
