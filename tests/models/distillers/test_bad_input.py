"""Mistakes in a distiller's config: one error before the first step, with key and value."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS

NAN = float('nan')
CHECKPOINT = 'teachers[0] (big).checkpoint'
OFF = dict(kd=dict(type='SoftTarget', loss_weight=0))


def hint(
    student: str = 'backbone.layer2', teacher: str = 'backbone.layer3', **extra: Any
) -> dict[str, Any]:
    return dict(h=dict(type='Hint', pairs=[dict(student=student, teacher=teacher, **extra)]))


def soft_target(**changes: Any) -> dict[str, Any]:
    return dict(kd={'type': 'SoftTarget', **changes})


def refused(
    folder: Path, key: str, found: Any, *mentions: str, fix: str | None = None, **changes: Any
) -> None:
    """Expect this error when a distiller with these changes is built."""
    config = tiny.distiller_config(folder, **changes)
    with raises_config_error(key, found, *mentions, fix=fix):
        ROOT_MODELS.build(config)


def teacher(checkpoint: str, **extra: Any) -> list[dict[str, Any]]:
    return [dict(name='big', model=tiny.classifier(), checkpoint=checkpoint, **extra)]


@pytest.mark.parametrize('given', [[], None, ()])
@pytest.mark.parametrize('changes', [{}, dict(methods=OFF)])
def test_distiller_without_teachers_is_refused(
    tmp_path: Path, given: Any, changes: dict[str, Any]
) -> None:
    refused(tmp_path, 'teachers', given, 'at least one', teachers=given, **changes)


def test_teacher_with_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / 'none.pth')
    refused(tmp_path, CHECKPOINT, path, fix='No file is there', teachers=teacher(path))


def test_teacher_with_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = Path(tiny.checkpoint(tmp_path))
    path.write_bytes(path.read_bytes()[:-100])
    teachers = teacher(str(path))
    refused(tmp_path, CHECKPOINT, str(path), 'truncated', fix='again', teachers=teachers)


def test_teacher_with_a_checkpoint_of_another_depth_is_refused(tmp_path: Path) -> None:
    path = tiny.checkpoint(tmp_path, tiny.classifier(depth=14))
    mentions = ('does not fit the model: 30 keys unexpected (backbone.layer1.1', '27 more) (found')
    refused(tmp_path, CHECKPOINT, path, *mentions, fix='', teachers=teacher(path))


def test_teacher_with_a_checkpoint_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = tiny.checkpoint(tmp_path, tiny.classifier(classes=7))
    mentions = ('2 keys of another shape', 'head.fc.weight', '[7, 16]', '[4, 16]')
    refused(tmp_path, CHECKPOINT, path, *mentions, fix='', teachers=teacher(path))


def test_teacher_with_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f'touch {tmp_path}/trace',)

    path = str(tmp_path / 'evil.pth')
    torch.save(dict(state_dict=Evil()), path)
    teachers = teacher(path)
    refused(tmp_path, CHECKPOINT, path, 'posix.system', fix='state_dict', teachers=teachers)
    assert not (tmp_path / 'trace').exists()


@pytest.mark.parametrize(
    ('methods', 'key', 'found', 'mention', 'fix'),
    [
        (
            hint(student='backbone.layer4'),
            'methods.h',
            'backbone.layer4',
            'student (ImageClassifier)',
            "'backbone.layer3', 'backbone.layer2', 'backbone.layer1'",
        ),
        (
            hint(teacher='bakbone.layer1'),
            'methods.h',
            'bakbone.layer1',
            'teachers[0] (t0) (ImageClassifier)',
            "'backbone.layer1'",
        ),
        (hint(student='backbone[1]'), 'student', 'backbone[1]', '1 tensor', "'backbone[0]'"),
        (
            hint(student='backbone.layer3.0.conv1.x'),
            'methods.h',
            'backbone.layer3.0.conv1.x',
            'student (ImageClassifier)',
            "are 'backbone.layer3.0.conv1'",
        ),
    ],
)
def test_tap_that_does_not_exist_is_refused(
    tmp_path: Path, methods: dict[str, Any], key: str, found: str, mention: str, fix: str
) -> None:
    refused(tmp_path, key, found, mention, fix=fix, methods=methods)


def stock_resnet(**extra: Any) -> dict[str, Any]:
    """Return MMPretrain's ResNet, whose blocks call one ReLU twice, in place."""
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
    ('tap', 'mention', 'fix'),
    [
        ('backbone.layer1.0.relu', 'several times', "'backbone.layer1.0.relu#0'"),
        ('backbone.layer1.0.bn1', 'in place', 'Tap that later layer'),
    ],
)
def test_tap_called_twice_or_changed_in_place_is_refused(
    tmp_path: Path, side: str, tap: str, mention: str, fix: str
) -> None:
    stock = stock_resnet()
    if side == 'student':
        changes = dict(student=stock, methods=hint(student=tap))
        refused(tmp_path, 'student', tap, mention, fix=fix, **changes)
        return
    teachers = [dict(name='stock', model=stock, checkpoint=tiny.checkpoint(tmp_path, stock))]
    changes = dict(teachers=teachers, methods=dict(**hint(teacher=tap), **soft_target()))
    refused(tmp_path, 'teachers[0] (stock)', tap, mention, fix=fix, **changes)


@pytest.mark.parametrize(
    ('methods', 'key', 'found', 'channels'),
    [
        (hint(student_channels=16), 'methods.h.pairs[0].student_channels', 16, 8),
        (hint(teacher_channels=16), 'methods.h.pairs[0].teacher_channels', 16, 24),
        (
            dict(a=tiny.amtml(teacher_channels=[24, 32])),
            'methods.a.teacher_channels[1]',
            32,
            24,
        ),
    ],
)
def test_stated_channels_that_differ_from_the_tapped_are_refused(
    tmp_path: Path, methods: dict[str, Any], key: str, found: int, channels: int
) -> None:
    refused(tmp_path, key, found, f'must be {channels}', methods=methods)


def test_teacher_with_another_number_of_classes_is_refused_for_class_scores_alone(
    tmp_path: Path,
) -> None:
    other = tiny.classifier(classes=7)
    teachers = [dict(name='seven', model=other, checkpoint=tiny.checkpoint(tmp_path, other))]
    key = 'teachers[0] (seven)'
    refused(tmp_path, key, 7, '4 classes of student', fix='class_map=', teachers=teachers)
    tiny.distiller(tmp_path, teachers=teachers, methods=hint())


def test_more_teachers_than_groups_are_refused(tmp_path: Path) -> None:
    teachers, methods = tiny.teachers(tmp_path, 4), dict(a=tiny.amtml(mapping='random'))
    changes = dict(teachers=teachers, methods=methods)
    refused(tmp_path, 'methods.a.student_groups', 3, '4 teachers', **changes)


@pytest.mark.parametrize(
    ('methods', 'key', 'found', 'mention'),
    [
        (soft_target(temperature=0), 'methods.kd.temperature', 0, 'a number > 0'),
        (dict(a=tiny.amtml(temperature=-5)), 'methods.a.temperature', -5, 'a number > 0'),
        (soft_target(loss_weight=-1), 'methods.kd.loss_weight', -1, 'a number >= 0'),
        (dict(a=tiny.amtml(hint_weight=-0.5)), 'methods.a.hint_weight', -0.5, 'a number >= 0'),
        (soft_target(temperature=NAN), 'methods.kd.temperature', NAN, 'a number'),
        (
            dict(a=tiny.amtml(weighting=dict(type='LatentTeacherWeighting', init_std=NAN))),
            'methods.a.weighting.init_std',
            NAN,
            'a number',
        ),
        (dict(a=tiny.amtml(mapping=[0, 0])), 'methods.a.mapping', [0, 0], '2 different indices'),
        (soft_target(tau=4), 'methods.kd.tau', 4, 'temperature'),
        (soft_target(type='SoftTargets'), 'methods.kd.type', 'SoftTargets', "'SoftTarget'"),
        (dict(kd=dict(type='AngleLoss')), 'methods.kd.type', 'AngleLoss', 'a Method'),
        (dict(kd=dict(temperature=4)), 'methods.kd', dict(temperature=4), '"type"'),
        ({}, 'methods', {}, "dict(name=dict(type='SoftTarget'"),
        ([dict(type='SoftTarget')], 'methods', [dict(type='SoftTarget')], 'dict(name='),
        ({'my_loss': OFF['kd']}, 'methods.my_loss', 'my_loss', "without 'loss'"),
        ({'task': OFF['kd']}, 'methods.task', 'task', 'reserved'),
        ({'a.b': OFF['kd']}, 'methods.a.b', 'a.b', 'a word'),
        ({'keys': OFF['kd']}, 'methods.keys', 'keys', 'reserved'),
    ],
)
def test_method_config_with_a_wrong_value_is_refused(
    tmp_path: Path, methods: Any, key: str, found: Any, mention: str
) -> None:
    refused(tmp_path, key, found, mention, methods=methods)


@pytest.mark.parametrize(
    ('changes', 'key', 'found', 'mention'),
    [
        (dict(task_weight=-1), 'task_weight', -1, 'a number >= 0'),
        (dict(task_weight=NAN), 'task_weight', NAN, 'a number >= 0'),
        (
            dict(student=tiny.classifier(train_cfg=dict(a=[NAN]))),
            'student.train_cfg.a[0]',
            NAN,
            'a number',
        ),
        (dict(cfg_options={'model.a': NAN}), 'cfg_options.model.a', NAN, 'a number'),
        (dict(data_preprocessor=dict(mean=[NAN])), 'data_preprocessor.mean[0]', NAN, 'a number'),
        (dict(task_weight=0, methods=OFF), 'task_weight', 0.0, 'nothing would be trained'),
        (dict(student='none.py'), 'student', 'none.py', 'a config file'),
        (dict(probe_shape=(3, 8)), 'probe_shape', (3, 8), '(channels, height, width)'),
    ],
)
def test_distiller_config_with_a_wrong_value_is_refused(
    tmp_path: Path, changes: dict[str, Any], key: str, found: Any, mention: str
) -> None:
    refused(tmp_path, key, found, mention, **changes)


def test_teacher_config_with_nan_is_refused(tmp_path: Path) -> None:
    preprocessor = dict(mean=[NAN] * 3, std=[1.0] * 3)
    teachers = tiny.teachers(tmp_path, 1, data_preprocessor=preprocessor)
    refused(tmp_path, 'teachers[0].data_preprocessor.mean[0]', NAN, teachers=teachers)


def test_data_without_labels_for_the_task_loss_are_refused_before_a_step(tmp_path: Path) -> None:
    data = dict(type='TinyImages', labels=False)
    run = tiny.runner(tiny.distiller_config(tmp_path), tmp_path / 'run', dataset=data)
    before = tiny.weights_of(run.model)
    run.model.init_weights = lambda: None
    with raises_config_error('task_weight', 1.0, 'labels', fix='task_weight=0'):
        run.train()
    assert all(
        torch.equal(before[n].nan_to_num(), v.nan_to_num())
        for n, v in run.model.state_dict().items()
    )


LATENT = dict(type='LatentTeacherWeighting')
NEED_LABELS = [
    (tiny.amtml(), "objective='paper'"),  # the default is 'label'
    (
        tiny.amtml(weighting=dict(type='ConfidenceTeacherWeighting')),
        "weighting=dict(type='UniformTeacherWeighting')",
    ),
    (dict(type='DKD'), "'SoftTarget'"),
    # The paper's objective is refused for these, so it is no remedy.
    (dict(type='HardTarget', weighting=LATENT), 'Set weighting='),
    (dict(type='AngleTransfer', weighting=LATENT), 'Set weighting='),
    (tiny.amtml(soft_target=dict(type='HardTarget')), 'Set weighting='),
    (tiny.amtml(soft_target=dict(type='NKD')), "'SoftTarget'"),
]


@pytest.mark.parametrize(('method', 'fix'), NEED_LABELS)
@pytest.mark.parametrize('labelled_batches', [0, 1])
def test_batch_without_labels_for_a_method_that_needs_them_is_refused(
    tmp_path: Path, method: dict[str, Any], fix: str, labelled_batches: int
) -> None:
    """The first batch is checked, and a later one as well."""
    model = tiny.distiller(tmp_path, task_weight=0, methods=dict(a=method))
    for _ in range(labelled_batches):
        tiny.losses_of(model)
    with raises_config_error('methods.a', ANY, 'labels', fix=fix):
        tiny.losses_of(model, tiny.batch_of(labels=False))


@pytest.mark.parametrize('left_over', [1, 2])
def test_run_with_a_last_batch_of_one_or_two_images_trains(tmp_path: Path, left_over: int) -> None:
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
