"""Every hook of the hosts does to a student what it does to the plain model.

Each entry returns what the hook did. It runs on a plain model and on a distiller with and without a
method. A new hook of a host fails the first test until it has an entry.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import mmdet.engine.hooks
import mmdet.registry
import mmengine.registry
import mmpretrain.engine.hooks
import mmpretrain.registry
import numpy as np
import pytest
import torch
from helpers import classification as tiny
from helpers import detection, hosts
from mmdet.visualization import TrackLocalVisualizer
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.visualization import Visualizer
from mmpretrain.visualization import UniversalVisualizer
from torch import nn

HOOKS = {
    f'{scope.scope}.{name}': hook
    for scope in (mmengine.registry.HOOKS, mmpretrain.registry.HOOKS, mmdet.registry.HOOKS)
    for name, hook in scope.module_dict.items()
    if hook.__module__.partition('.')[0] in ('mmengine', 'mmcv', 'mmpretrain', 'mmdet')
}

#: Hooks whose code reads no model, with the arguments that they need.
APART: dict[str, dict[str, Any]] = {
    'mmengine.CheckpointHook': dict(interval=1, save_best='accuracy/top1', by_epoch=False),
    'mmengine.DistSamplerSeedHook': {},
    'mmengine.EarlyStoppingHook': dict(monitor='accuracy/top1', patience=1),
    'mmengine.EmptyCacheHook': {},
    'mmengine.IterTimerHook': {},
    'mmengine.LoggerHook': dict(interval=1),
    'mmengine.NPUProfilerHook': {},
    'mmengine.ParamSchedulerHook': {},
    'mmengine.ProfilerHook': dict(by_epoch=False),
    'mmengine.RuntimeInfoHook': {},
    'mmpretrain.SimSiamHook': dict(fix_pred_lr=True, lr=0.5, adjust_by_epoch=False),
    'mmpretrain.VisualizationHook': dict(enable=False),
    'mmdet.CheckInvalidLossHook': dict(interval=1),
    'mmdet.DetVisualizationHook': {},
    'mmdet.GroundingVisualizationHook': {},
    'mmdet.MemoryProfilerHook': dict(interval=1),
    'mmdet.PipelineSwitchHook': dict(switch_epoch=0, switch_pipeline=[]),
    'mmdet.TrackVisualizationHook': {},
}

#: These need a device or a package that is not always there.
NEEDS_MORE = 'mmengine.NPUProfilerHook', 'mmdet.MemoryProfilerHook'

_TAUGHT = object()  # in place of tensors that a method trains; equal to any

Effect = Callable[['Trial'], Any]
EFFECTS: dict[str, Effect] = {}


class Trial:
    """One way of training, in a folder of its own."""

    def __init__(self, way: str, folder: Path) -> None:
        self.way = way
        self.folder = folder / way.replace(' ', '_')
        self.folder.mkdir()

    def model(self, student: Any = None, **tap: str) -> Any:
        """Build the student this way."""
        return hosts.build(self.way, student or hosts.eventful(), self.folder, **tap)

    def train(self, *hooks: Any, model: Any = None, **changes: Any) -> Any:
        """Train with hooks, and return the Runner."""
        model = self.model() if model is None else model
        return _trained(model, self.folder, *hooks, **changes)

    def state(self, model: Any) -> Any:
        """Return the student's tensors; a method with a weight changes them."""
        return _TAUGHT if self.way == 'weight 1' else hosts.student_of(model).state_dict()


def _trained(model: Any, folder: Path, *hooks: Any, **changes: Any) -> Any:
    settings = dict(
        custom_hooks=copy.deepcopy(list(hooks)),
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
        **tiny.validation(),
        dataset=dict(type='TinyImages', length=12),
        batch=4,
    )
    run = tiny.runner(model, folder / 'run', **{**settings, **changes})
    run.train()
    return run


def effect(name: str) -> Callable[[Effect], Effect]:
    """Enter a function that returns what a hook does to a model."""

    def enter(function: Effect) -> Effect:
        EFFECTS[name] = function
        return function

    return enter


def _same(one: Any, other: Any) -> bool:
    if other is _TAUGHT:
        return True
    if isinstance(one, torch.Tensor):
        return tiny.identical(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _reads_the_model(hook: type) -> bool:
    """Whether the code of a hook names an attribute ``model``."""
    for base in hook.__mro__[: hook.__mro__.index(Hook)]:
        for function in vars(base).values():
            function = getattr(function, 'fget', None) or getattr(function, '__func__', function)
            function = getattr(function, '__wrapped__', function)
            if 'model' in _names_of(function):
                return True
    return False


def _names_of(function: Any) -> set[str]:
    code = getattr(function, '__code__', None)
    return set() if code is None else set(_names(code))


def test_every_hook_of_the_hosts_has_an_entry() -> None:
    assert HOOKS.keys() == APART.keys() | EFFECTS.keys()
    assert not APART.keys() & EFFECTS.keys()


def test_hooks_apart_are_those_whose_code_reads_no_model() -> None:
    assert {name for name, hook in HOOKS.items() if not _reads_the_model(hook)} == set(APART)


def _hook(name: str, **arguments: Any) -> Any:
    return HOOKS[name](**arguments)


def _stage(model: Any, **values: Any) -> Any:
    """Return what hooks read of a Runner."""
    logger = MMLogger.get_current_instance()
    logger.setLevel('ERROR')
    dataset = SimpleNamespace(CLASSES=list('abcd'), metainfo=dict(classes=list('abcd')))
    loader = SimpleNamespace(dataset=dataset)
    known = dict(model=model, logger=logger, iter=0, epoch=0, max_iters=6, max_epochs=2)
    known |= dict(train_dataloader=loader, val_dataloader=loader, world_size=1)
    return SimpleNamespace(**{**known, **values})


def _raised(function: Callable[[], Any]) -> str:
    """Return the name of the error that a function raises, if it raises one."""
    try:
        function()
    except Exception as error:  # every kind is compared
        return type(error).__name__
    return ''


@effect('mmengine.EMAHook')
def _mmengine_ema(trial: Trial) -> Any:
    return _averaged(trial, 'mmengine.EMAHook')


@effect('mmpretrain.EMAHook')
def _mmpretrain_ema(trial: Trial) -> Any:
    return _averaged(trial, 'mmpretrain.EMAHook', evaluate_on_origin=True)


def _averaged(trial: Trial, kind: str, **arguments: Any) -> Any:
    hook = dict(type=kind, momentum=0.3, update_buffers=True, **arguments)
    run = trial.train(hook)
    averaged = next(one for one in run.hooks if hasattr(one, 'ema_model')).ema_model.module
    own, mean = (hosts.student_of(one).state_dict() for one in (run.model, averaged))
    saved = torch.load(trial.folder / 'run' / 'iter_2.pth', weights_only=False)
    kept = hosts.plain_names(saved['state_dict'])
    names = [name for name in own if not torch.equal(own[name], mean[name])]
    return names, list(kept), _TAUGHT if trial.way == 'weight 1' else (own, mean, kept)


@effect('mmengine.NaiveVisualizationHook')
def _naive_visualization(trial: Trial) -> Any:
    drawn: list[Any] = []
    picture = SimpleNamespace(add_graph=lambda model, batch: drawn.append(model))
    _hook('mmengine.NaiveVisualizationHook').before_train(_stage(trial.model(), visualizer=picture))
    return drawn[0](torch.ones(1, 3, 8, 8))


@effect('mmengine.PrepareTTAHook')
def _test_time_augmentation(trial: Trial) -> Any:
    stage = _stage(trial.model().eval())
    hook = _hook('mmengine.PrepareTTAHook', tta_cfg=dict(type='mmpretrain.AverageClsScoreTTA'))
    hook.before_test(stage)
    one, other = tiny.batch_of(2), tiny.batch_of(2)
    views = {key: [one[key], other[key]] for key in one}
    return [sample.pred_score for sample in stage.model.test_step(views)]


@effect('mmengine.RFSearchHook')
def _receptive_field_search(trial: Trial) -> Any:
    search = dict(
        step=0, max_step=4, search_interval=1, exp_rate=0.5, init_alphas=0.01, mmin=1, mmax=8,
        num_branches=2, skip_layer=['backbone.layer1'],
    )  # fmt: skip
    hook = _hook('mmengine.RFSearchHook', config=dict(search=search), verbose=False)
    model = trial.model()
    hook.init_model(model)
    hook.after_train_epoch(_stage(model, work_dir=str(trial.folder)))
    student = hosts.student_of(model)
    modules = {name: type(one).__name__ for name, one in student.named_modules() if name}
    return modules, hook.config['structure'], list(student.state_dict())


@effect('mmengine.SyncBuffersHook')
def _sync_buffers(trial: Trial) -> Any:
    def halve(buffers: Any, op: str) -> None:
        for buffer in buffers:
            buffer.copy_(buffer / 2)

    hook = _hook('mmengine.SyncBuffersHook')
    hook.distributed = True
    model = trial.model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.hooks.sync_buffer_hook.all_reduce_params', halve)
        hook.after_train_epoch(_stage(model))
    return dict(hosts.student_of(model).named_buffers())


@effect('mmpretrain.ClassNumCheckHook')
def _class_num_check(trial: Trial) -> Any:
    hook = _hook('mmpretrain.ClassNumCheckHook')
    return _raised_for_classes(trial, hook.before_train)


@effect('mmdet.NumClassCheckHook')
def _num_class_check(trial: Trial) -> Any:
    hook = _hook('mmdet.NumClassCheckHook')
    return _raised_for_classes(trial, hook.before_train_epoch)


def _raised_for_classes(trial: Trial, check: Callable[[Any], None]) -> list[str]:
    right, wrong = (_stage(trial.model()) for _ in range(2))
    wrong.train_dataloader.dataset = SimpleNamespace(CLASSES=['a'], metainfo=dict(classes=['a']))
    found = [_raised(lambda stage=stage: check(stage)) for stage in (right, wrong)]
    assert found == ['', 'AssertionError']
    return found


@effect('mmpretrain.DenseCLHook')
def _dense_contrast(trial: Trial) -> Any:
    model = trial.model()
    trial.train(dict(type='DenseCLHook', start_iters=3), model=model)
    return hosts.student_of(model).seen[-6:], hosts.student_of(model).loss_lambda


@effect('mmpretrain.PreciseBNHook')
def _precise_norm(trial: Trial) -> Any:
    model = trial.model()
    trial.train(dict(type='PreciseBNHook', num_samples=8), model=model)
    momenta = [one.momentum for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    return set(momenta), trial.state(model)


@effect('mmpretrain.PrepareProtoBeforeValLoopHook')
def _prepare_prototype(trial: Trial) -> Any:
    classifier = tiny.classifier()
    retriever = dict(
        type='mmpretrain.ImageToImageRetriever',
        image_encoder=[classifier['backbone'], classifier['neck']],
        head=classifier['head'],
        prototype=torch.arange(64.0).reshape(4, 16),
        data_preprocessor=tiny.preprocessor(),
    )
    model = trial.model(retriever, tap='image_encoder.0.layer3')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        _hook('mmpretrain.PrepareProtoBeforeValLoopHook').before_val(_stage(model))
    student = hosts.student_of(model)
    return student.prototype_inited, student.prototype_vecs, len(caught)


@effect('mmpretrain.SetAdaptiveMarginsHook')
def _adaptive_margins(trial: Trial) -> Any:
    head = dict(type='ArcFaceClsHead', num_classes=4, in_channels=16)
    model = trial.model(hosts.eventful(head=head))
    stage = _stage(model)
    stage.train_dataloader.dataset.get_gt_labels = lambda: np.array([0, 0, 0, 1, 1, 2, 3])
    _hook('mmpretrain.SetAdaptiveMarginsHook').before_train(stage)
    return list(hosts.student_of(model).head.margins)


@effect('mmpretrain.SwAVHook')
def _queue_and_frozen_layers(trial: Trial) -> Any:
    model = trial.model()
    hook = _hook(
        'mmpretrain.SwAVHook', batch_size=2, epoch_queue_starts=0, queue_length=4, feat_dim=3,
        frozen_layers_cfg={'layer1': 2},
    )  # fmt: skip
    stage = _stage(model, work_dir=str(trial.folder))
    hook.before_run(stage)
    hook.before_train_epoch(stage)
    student = hosts.student_of(model)
    flags = []
    for stage.iter in range(4):
        hook.before_train_iter(stage, batch_idx=0)
        flags.append({name: one.requires_grad for name, one in student.named_parameters()})
    return flags, student.head.loss_module.queue, student.head.loss_module.use_queue


@effect('mmpretrain.SwitchRecipeHook')
def _switch_recipe(trial: Trial) -> Any:
    loss = dict(type='LabelSmoothLoss', label_smooth_val=0.2, num_classes=4)
    schedule = [
        dict(action_epoch=1, batch_augments=dict(augments=dict(type='Mixup', alpha=0.5))),
        dict(action_epoch=2, batch_augments=None, loss=loss),
    ]
    model = trial.model()
    trial.train(dict(type='SwitchRecipeHook', schedule=schedule), model=model)
    student = hosts.student_of(model)
    found = type(student.head.loss_module).__name__, model.data_preprocessor.batch_augments
    return found, trial.state(model)


@effect('mmpretrain.WarmupParamHook')
def _warmup(trial: Trial) -> Any:
    model = trial.model()
    hook = _hook(
        'mmpretrain.WarmupParamHook', param_name='loss_weight', module_name='head.loss_module',
        warmup_epochs=1,
    )  # fmt: skip
    stage = _stage(model)
    hook.before_train(stage)
    values = []
    for stage.iter in range(4):
        hook.before_train_iter(stage, batch_idx=0)
        values.append(hosts.student_of(model).head.loss_module.loss_weight)
    return values


@effect('mmdet.MeanTeacherHook')
def _mean_teacher(trial: Trial) -> Any:
    hook = _hook('mmdet.MeanTeacherHook')
    return _raised(lambda: hook.before_train(_stage(trial.model())))  # one network is none of two


@effect('mmdet.SetEpochInfoHook')
def _epoch_info(trial: Trial) -> Any:
    model = trial.model()
    trial.train(dict(type='mmdet.SetEpochInfoHook'), model=model)
    return hosts.student_of(model).epochs


@effect('mmdet.SyncNormHook')
def _sync_norm(trial: Trial) -> Any:
    def halve(states: dict[str, Any], op: str) -> dict[str, Any]:
        return {name: value / 2 for name, value in states.items()}

    model = trial.model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmdet.engine.hooks.sync_norm_hook.get_dist_info', lambda: (0, 2))
        patch.setattr('mmdet.engine.hooks.sync_norm_hook.all_reduce_dict', halve)
        _hook('mmdet.SyncNormHook').before_val_epoch(_stage(model))
    return hosts.student_of(model).state_dict()


@effect('mmdet.YOLOXModeSwitchHook')
def _mode_of_yolox(trial: Trial) -> Any:
    model = trial.model(detection.detector('yolox'), tap='backbone.stage2')
    skipped: list[Any] = []
    dataset = SimpleNamespace(update_skip_type_keys=skipped.append)
    stage = _stage(model, epoch=1, train_dataloader=SimpleNamespace(dataset=dataset))
    _hook('mmdet.YOLOXModeSwitchHook', num_last_epochs=1).before_train_epoch(stage)
    return hosts.student_of(model).bbox_head.use_l1, skipped


@pytest.mark.parametrize('name', EFFECTS)
def test_a_hook_does_to_the_student_what_it_does_to_the_plain_model(
    name: str, tmp_path: Path
) -> None:
    plain, *taught = (EFFECTS[name](Trial(way, tmp_path)) for way in hosts.WAYS)
    assert all(_same(plain, one) for one in taught)


def test_hooks_apart_leave_a_run_as_it_is_on_the_plain_model(tmp_path: Path) -> None:
    states, failed = [], []
    for way in hosts.WAYS[:2]:
        for visualizer in (Visualizer, UniversalVisualizer, TrackLocalVisualizer):
            visualizer.get_instance(way)  # some hooks look for one
        errors = {
            name: _raised(lambda: HOOKS[name](**arguments))  # noqa: B023
            for name, arguments in APART.items()
        }
        hooks = [dict(APART[name], type=name) for name, error in errors.items() if not error]
        trial = Trial(way, tmp_path)
        states.append(trial.state(trial.train(*hooks).model))
        failed.append([name for name, error in errors.items() if error])
    assert _same(*states)
    assert failed[0] == failed[1]
    assert set(failed[0]) <= set(NEEDS_MORE)
