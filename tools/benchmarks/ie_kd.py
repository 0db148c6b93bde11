"""A training step of IE-KD against the sum of its parts; a teacher that stops at its tap."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope

from benchmarks.measure import Result, ratio, seconds_in_turns
from benchmarks.steps import batch_of, classifier, forward, step, untrained_teacher

DEEP, SHALLOW = 'backbone.layer3', 'backbone.layer1'


def measure_ie_kd(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    """Measure IE-KD on factors at CIFAR's size, then a teacher tapped after its first stage."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    depth, teacher_depth, batch = (8, 14, 16) if quick else (20, 56, 128)
    distiller = _distiller(depth, teacher_depth, DEEP).to(device).train()
    data = batch_of(batch)
    inputs = distiller.data_preprocessor(data, training=True)['inputs']
    teacher = distiller.teachers[0].model.to(device)
    tasks = dict(
        whole=step(distiller, data),
        student=step(MODELS.build(classifier(depth)).to(device).train(), data),
        teacher=forward(teacher.backbone, inputs),
        encoders=encoders_step(
            distiller.methods.ie.transform, [_maps(distiller.student, teacher, inputs)]
        ),
    )
    seconds = seconds_in_turns(tasks, repeats, device)
    whole = seconds.pop('whole')
    rounds = [total / sum(parts) for total, *parts in zip(whole, *seconds.values(), strict=True)]
    name = f'IE-KD step, ResNet-{teacher_depth} to {depth}, batch {batch}: of its parts'
    return [
        ratio(name, rounds, at_most=None if quick else 1.05),
        _stopping_early(depth, teacher_depth, inputs, device, repeats),
    ]


def _stopping_early(
    depth: int, teacher_depth: int, inputs: torch.Tensor, device: torch.device, repeats: int
) -> Result:
    """Measure a teacher tapped after its first stage against its whole forward."""
    teacher = _distiller(depth, teacher_depth, SHALLOW).teachers[0]
    tasks = dict(
        early=lambda: teacher.observe(inputs), whole=forward(teacher.model.to(device), inputs)
    )
    seconds = seconds_in_turns(tasks, repeats, device)
    rounds = [
        early / whole for early, whole in zip(seconds['early'], seconds['whole'], strict=True)
    ]
    return ratio(f'ResNet-{teacher_depth} tapped at {SHALLOW}: of its whole forward', rounds)


def _distiller(depth: int, teacher_depth: int, tap: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        teacher = untrained_teacher(teacher_depth, Path(folder))
        method = ie_kd(teacher, tap, Path(folder))
        return MODELS.build(
            dict(
                type='mmkd_plugin.Distiller',
                student=classifier(depth),
                teachers=[teacher],
                methods=dict(ie=method),
                probe_shape=(3, 32, 32),
            )
        )


def ie_kd(teacher: dict[str, Any], tap: str, folder: Path) -> dict[str, Any]:
    """Return a config of IE-KD at one tap, with an untrained paraphraser in a folder."""
    paraphraser = folder / 'paraphraser.pth'
    trainer = MODELS.build(dict(type='mmkd_plugin.ParaphraserTrainer', teacher=teacher, tap=tap))
    torch.save(dict(state_dict=trainer.state_dict()), paraphraser)
    pairs = [dict(student=tap, teacher=tap, checkpoint=str(paraphraser))]
    return dict(type='IEKD', pairs=pairs)


@torch.no_grad()
def _maps(student: Any, teacher: Any, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return student.backbone(inputs)[-1], teacher.backbone(inputs)[-1]


def encoders_step(
    transform: Any, maps: Sequence[tuple[torch.Tensor, torch.Tensor]], factors: bool = False
) -> Callable[[], object]:
    """Return a step of the encoders alone.

    It runs each pair's paraphraser, and both student encoders with backward and optimizer.

    Args:
        transform: Connectors of the method.
        maps: The student's and the teacher's map of each pair.
        factors: Whether the factors are known, and no paraphraser runs.
    """
    encoders = list(zip(transform.encoders['inherit'], transform.encoders['explore'], strict=True))
    optimizer = torch.optim.SGD(
        transform.encoders.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4
    )
    wrapper = OptimWrapper(optimizer)
    halves = [torch.randn_like(source[:, ::2], requires_grad=True) for source, _ in maps]

    known = [transform.encode_teacher(number, target) for number, (_, target) in enumerate(maps)]

    def run() -> None:
        losses = []
        for number, (half, (_, target)) in enumerate(zip(halves, maps, strict=True)):
            factor = known[number] if factors else transform.encode_teacher(number, target)
            losses += [(encoder(half) * factor).mean() for encoder in encoders[number]]
        wrapper.update_params(sum(losses[1:], losses[0]))

    return run
