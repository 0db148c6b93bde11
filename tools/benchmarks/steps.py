"""A training step of a distiller against a bare student's step and bare teachers' forwards."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope

from benchmarks.measure import Result, ratio, seconds_in_turns

CLASSES = 10
SOFT_TARGET = dict(kd=dict(type='SoftTarget', temperature=4.0))
AMTML_KD = dict(
    amtml=dict(
        type='AMTMLKD',
        embedding_tap='backbone.layer3',
        student_groups=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'],
        teacher_taps='backbone.layer3',
    )
)


def measure_steps(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    """At CIFAR's size: SoftTarget of one teacher, and AMTML-KD of three with all its parts."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    student, teachers, batch = (8, (8, 14, 20), 16) if quick else (20, (32, 56, 110), 128)
    results = []
    for name, methods, taught_by, bound in (
        ('SoftTarget', SOFT_TARGET, teachers[1:2], 1.05),
        ('AMTML-KD', AMTML_KD, teachers, 1.10),
    ):
        rounds = _whole_over_parts(methods, student, taught_by, batch, device, repeats)
        depths = '+'.join(str(depth) for depth in taught_by)
        subject = f'{name} step, ResNet-{depths} to {student}, batch {batch}: of its parts'
        results.append(ratio(subject, rounds, at_most=None if quick else bound))
    return results


def _whole_over_parts(
    methods: dict[str, Any],
    depth: int,
    teacher_depths: Sequence[int],
    batch: int,
    device: torch.device,
    repeats: int,
) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        teachers = [
            untrained_teacher(teacher_depth, Path(folder)) for teacher_depth in teacher_depths
        ]
        config = dict(
            type='mmkd_plugin.Distiller',
            student=classifier(depth),
            teachers=teachers,
            methods=methods,
        )
        distiller = MODELS.build(dict(config, probe_shape=(3, 32, 32))).to(device).train()
    distiller.set_teacher_scores([float(teacher_depth) for teacher_depth in teacher_depths])
    student = MODELS.build(classifier(depth)).to(device).train()
    data = batch_of(batch)
    inputs = student.data_preprocessor(data, training=True)['inputs']
    tasks = dict(whole=step(distiller, data), student=step(student, data))
    for teacher in distiller.teachers:
        tasks[teacher.name] = forward(teacher.model.to(device), inputs)
    seconds = seconds_in_turns(tasks, repeats, device)
    whole = seconds.pop('whole')
    return [total / sum(parts) for total, *parts in zip(whole, *seconds.values(), strict=True)]


def classifier(depth: int) -> dict[str, Any]:
    """A CIFAR ResNet in MMPretrain's classifier."""
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            num_classes=CLASSES, mean=[125.3, 123.0, 113.9], std=[51.6, 50.8, 51.3], to_rgb=False
        ),
        backbone=dict(type='mmkd_plugin.CifarResNet', depth=depth),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=CLASSES,
            in_channels=64,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


def untrained_teacher(depth: int, folder: Path) -> dict[str, Any]:
    """Untrained: its answers cost as much."""
    name, model = f'resnet{depth}', classifier(depth)
    checkpoint = folder / f'{name}.pth'
    torch.save(dict(state_dict=MODELS.build(model).state_dict()), checkpoint)
    return dict(name=name, model=model, checkpoint=str(checkpoint))


def batch_of(size: int) -> dict[str, Any]:
    """Noise of CIFAR's size, as the data loader collates it."""
    from mmpretrain.structures import DataSample

    images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8)
    return dict(
        inputs=list(images),
        data_samples=[DataSample().set_gt_label(i % CLASSES) for i in range(size)],
    )


def step(model: Any, data: dict[str, Any]) -> Callable[[], object]:
    """A training step with its optimizer's."""
    optimizer = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    )
    return lambda: model.train_step(dict(data), optimizer)


def forward(model: Any, inputs: torch.Tensor) -> Callable[[], object]:
    """A forward without gradient."""
    return torch.no_grad()(lambda: model(inputs))
