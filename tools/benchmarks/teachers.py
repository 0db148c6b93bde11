"""The forward of a frozen teacher against the plain forward of the same network."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

from benchmarks.detectors import digit_scenes
from benchmarks.measure import Result, ratio, seconds_in_turns
from benchmarks.steps import batch_of, classifier, step, untrained_teacher
from mmkd_plugin.adapters import Teacher
from mmkd_plugin.loading.build import network_config


def measure_teachers(device: torch.device, repeats: int, quick: bool) -> list[Result]:
    """Measure ResNets of two sizes, and the GFL of the study `detection`."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        init_default_scope('mmpretrain')
        depth, size = (8, 8) if quick else (56, 128)
        images = torch.stack(batch_of(size)['inputs']).float() / 64 - 2
        entry = untrained_teacher(depth, Path(folder))
        rounds = _fast_over_plain(entry, images, (3, 32, 32), device, repeats)
        name = f'frozen ResNet-{depth}, batch {size}: of its plain forward'
        results = [ratio(name, rounds, at_most=None if quick else 0.75)]
        results.append(_after_a_schedule(entry, 8 if quick else 20, size, device, repeats, quick))
        results.append(_resnet34(Path(folder), device, repeats, quick))

        init_default_scope('mmdet')
        size, side = (2, 64) if quick else (16, 96)
        model = digit_scenes('teacher_gfl_r18')
        path = Path(folder) / 'gfl.pth'
        torch.save(dict(state_dict=MODELS.build(copy.deepcopy(model)).state_dict()), path)
        images = torch.randn(size, 3, side, side)
        entry = dict(name='gfl', model=model, checkpoint=str(path))
        rounds = _fast_over_plain(entry, images, (3, side, side), device, repeats)
        name = f'frozen GFL on ResNet-18, batch {size}: of its plain forward'
        return [*results, ratio(name, rounds, at_most=None if quick else 0.85)]


def _after_a_schedule(
    teacher: dict[str, Any], depth: int, batch: int, device: torch.device, repeats: int, quick: bool
) -> Result:
    """Compare a step whose method has ended by schedule with the step of the student alone."""
    end = dict(type='LinearSchedule', start=1.0, stop=0.0, end=1, by_epoch=False)
    config = dict(
        type='mmkd_plugin.Distiller',
        student=classifier(depth),
        teachers=[teacher],
        methods=dict(kd=dict(type='SoftTarget', loss_weight=end)),
        probe_shape=(3, 32, 32),
    )
    hub = MessageHub.get_current_instance()
    for name, value in dict(iter=1, epoch=0, max_epochs=1).items():
        hub.update_info(name, value)
    whole = MODELS.build(config).to(device).train()
    student = MODELS.build(classifier(depth)).to(device).train()
    data = batch_of(batch)
    tasks = dict(whole=step(whole, data), student=step(student, data))
    seconds = seconds_in_turns(tasks, repeats, device)
    rounds = [one / other for one, other in zip(*seconds.values(), strict=True)]
    name = f'step after the end of a schedule, ResNet-{depth}, batch {batch}: of the bare step'
    return ratio(name, rounds, at_most=None if quick else 1.02)


def _resnet34(folder: Path, device: torch.device, repeats: int, quick: bool) -> Result:
    """Compare MMPretrain's ResNet-34 on small images, whose deep maps have few locations."""
    batch, side = (4, 32) if quick else (64, 64)
    model = network_config('mmpretrain::resnet/resnet34_8xb32_in1k.py', 'model')
    path = folder / 'resnet34.pth'
    torch.save(dict(state_dict=MODELS.build(copy.deepcopy(model)).state_dict()), path)
    entry = dict(name='resnet34', model=model, checkpoint=str(path))
    images = torch.randn(batch, 3, side, side)
    rounds = _fast_over_plain(entry, images, (3, side, side), device, repeats)
    return ratio(f'frozen ResNet-34, batch {batch} of {side} px: of its plain forward', rounds)


def _fast_over_plain(
    entry: dict[str, Any],
    images: torch.Tensor,
    shape: tuple[int, int, int],
    device: torch.device,
    repeats: int,
) -> list[float]:
    def observed(fast: bool) -> Callable[[], object]:
        teacher = Teacher(**entry, fast=fast)
        teacher.request([], scores=True)
        teacher.probe(shape)
        return lambda: teacher.observe(images)

    images = images.to(device)
    tasks = dict(fast=observed(True), plain=observed(False))
    seconds = seconds_in_turns(tasks, repeats, device)
    return [fast / plain for fast, plain in zip(*seconds.values(), strict=True)]
