"""One student, any number of teachers, any number of methods."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.build_teachers import build_teachers
from mmkd_plugin.adapters.compat import meta_of_data, require_names_of_data
from mmkd_plugin.adapters.dry_run import REFUSALS
from mmkd_plugin.adapters.shared_locations import SharedLocations
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import ConfigError, no_nan, non_negative_number
from mmkd_plugin.loading.build import build_network, student_config
from mmkd_plugin.loading.run_record import RunRecord
from mmkd_plugin.models.distillers.binding import Learner, bind
from mmkd_plugin.models.distillers.first_batch import (
    Batch,
    check_labels,
    check_losses,
    check_outputs,
    refusal,
)
from mmkd_plugin.models.distillers.gradient_norms import gradient_norms
from mmkd_plugin.models.distillers.method_set import MethodSet
from mmkd_plugin.models.distillers.replay_check import require_replayable
from mmkd_plugin.models.distillers.standardize import TeacherScales, require_scalable
from mmkd_plugin.models.distillers.student_state import hold_network
from mmkd_plugin.models.distillers.teacher_inputs import share_inputs
from mmkd_plugin.models.distillers.transparent import TransparentModel
from mmkd_plugin.models.distillers.view_inputs import inputs_of_views
from mmkd_plugin.models.methods.base import Requests
from mmkd_plugin.models.methods.group_mapping import GroupMapping
from mmkd_plugin.outputs import NetworkOutput, ObjectBoxes
from mmkd_plugin.registry import MODELS
from mmkd_plugin.views.settings import publish_views


@MODELS.register_module()
class Distiller(TransparentModel):
    """Train a stock model as a student; predict, export and evaluate as that student.

    Losses are logged as ``task.<name>`` (the student's own) and ``<method>.<name>``. If all weights
    of all methods are 0, no teacher is built and the run is bit-identical to plain training.

    Args:
        student: A model dict, a config path or ``'pkg::path'``.
        teachers: ``dict(name=…, model=…, checkpoint=…)`` each; see
            :class:`~mmkd_plugin.adapters.Teacher` for the other keys.
        methods: Methods by name, such as ``dict(kd=dict(type='SoftTarget'))``.
        task_weight: Weight of the student's own losses. At 0 they are not computed, and no label is
            needed.
        cfg_options: Changes to make in ``student``, such as ``{'model.head.num_classes': 10}``.
        data_preprocessor: Preprocessing of the run; for the student if its dict has none.
        probe_shape: (channels, height, width) of an input that the student accepts, if the usual
            ones do not fit.
        init_cfg: As in every MMEngine model.

    Raises:
        ConfigError: If anything in the config does not fit.
    """

    data_preprocessor: nn.Module
    teacher_scores: Tensor

    def __init__(
        self,
        student: Any,
        teachers: Sequence[Mapping[str, Any]],
        methods: Mapping[str, Mapping[str, Any]],
        task_weight: float = 1.0,
        cfg_options: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        probe_shape: Sequence[int] | None = None,
        init_cfg: Any = None,
    ) -> None:
        task_weight = non_negative_number('task_weight', task_weight)
        given = dict(student=student, teachers=teachers, methods=methods)
        given |= dict(cfg_options=cfg_options, data_preprocessor=data_preprocessor)
        for key, config in given.items():
            no_nan(key, config)
        resolved = student_config(student, 'student', cfg_options, data_preprocessor)
        # A copy: frameworks write into what they build from.
        preprocessing = copy.deepcopy(resolved.get('data_preprocessor'))
        if preprocessing is not None and '_scope_' in resolved:
            preprocessing.setdefault('_scope_', resolved['_scope_'])  # teachers may have another
        network = build_network(resolved, 'student')
        super().__init__(getattr(network, 'data_preprocessor', None), init_cfg)
        self.student = network
        self.task_weight = task_weight
        self.tapped = TappedModel(network, 'student')
        self.teachers: list[Teacher] = []
        publish_views({})  # those of an earlier model in this process are none of this run's
        self._requests: dict[str, Requests] = {}
        self._input_of: list[int | None] = []
        self._shared: SharedLocations | None = None
        self._checked = False
        self._seen: set[str] = set()
        #: Set by the hook LogGradientNorms for a step, whose result is in ``gradient_norms``.
        self.measures_gradients = False
        self.gradient_norms: dict[str, tuple[float, float]] = {}
        with torch.random.fork_rng(devices=[]):  # the student draws as in a plain run
            self.methods = MethodSet(methods)
            if self.methods:
                self.teachers = build_teachers(teachers, preprocessing)
                self._bind(probe_shape)
            elif not teachers:
                build_teachers(teachers, preprocessing)  # an empty list is an error all the same
        if not task_weight and all(map(self.methods.may_rest, self.methods)):
            raise ConfigError(
                'task_weight',
                'must be a number > 0 where every method may rest: nothing would be trained',
                found=task_weight,
            )
        self.teacher_scales = TeacherScales(self.teachers)
        self.record = RunRecord(
            {
                'teachers': [
                    dict(name=one.name, sha256=one.sha256, **self.teacher_scales.record(index))
                    for index, one in enumerate(self.teachers)
                ]
            },
            'Put the files of the first run back, or start a new run from the exported student.',
            may_differ=['name'],
        )
        self.register_buffer('teacher_scores', torch.full((len(self.teachers),), torch.nan))
        hold_network(self, 'student')
        self.become_transparent()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # hooks and constructors of the hosts read what the student has
            return self.of_student(name)

    def _bind(self, probe_shape: Sequence[int] | None) -> None:
        learner = Learner(self.tapped, dict(self.methods.named()), self.teachers)
        [self._requests] = bind([learner], probe_shape)
        regions = self.tapped.needs_scores and self.tapped.adapter.scores_need_training
        if regions and not self.task_weight:
            raise ConfigError(
                'task_weight',
                'must be a number > 0 where class scores of regions are compared: the '
                "student's own losses sample the regions",
                'Use methods on taps alone, or a weight as small as you like.',
                found=self.task_weight,
            )
        run = self.data_preprocessor
        methods = dict(self.methods.named())
        self._shared = require_replayable(self.teachers, methods, self._requests, run)
        require_scalable(self.teachers, methods)
        others = [run if teacher.stored else teacher.data_preprocessor for teacher in self.teachers]
        views = inputs_of_views(self.teachers)
        self.data_preprocessor, self._input_of = share_inputs(run, others, views)

    def forward(
        self,
        inputs: Any,
        data_samples: Any = None,
        mode: str = 'tensor',
        teacher_inputs: Sequence[Any] = (),
    ) -> Any:
        """Run the student; ``mode='loss'`` adds the losses of the methods.

        Args:
            inputs: The preprocessed batch, (N, C, H, W).
            data_samples: The framework's.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.
            teacher_inputs: The batch under each other preprocessing.

        Raises:
            ConfigError: In ``'loss'``, if labels are needed and missing, or the data belong to
                another task or other classes.
        """
        if mode != 'loss':
            return self.student(inputs, data_samples, mode=mode)
        first = not self._checked  # what the first batch shows holds for all of them
        if first:
            check_labels(self.tapped, data_samples, self.task_weight, self._requests)
            require_names_of_data(self.teachers, meta_of_data())
        requests = self._requests
        if self.methods and self.methods.numbers:
            self.methods.set_time()
            requests = {n: one for n, one in requests.items() if self.methods.works(n)}
        if not requests:  # no method has a weight, or all of them rest
            self._checked, self.gradient_norms = True, {}
            losses = task_losses(self.student, self.tapped, inputs, data_samples, self.task_weight)
            return losses | method_losses(self.methods, NetworkOutput(), [], None)
        fresh = requests.keys() - self._seen
        with self.tapped.recording(inputs, data_samples) as recording:
            losses = task_losses(self.student, self.tapped, inputs, data_samples, self.task_weight)
        adapter = self.tapped.adapter
        student = with_objects(recording.output, adapter, inputs, data_samples, requests)
        batch = dict(inputs=inputs, data_samples=data_samples, teacher_inputs=teacher_inputs)
        teachers = self.observe_teachers(batch, student.rois, requests)
        labels = batch_labels(adapter, data_samples, requests)
        if fresh:
            outputs = {one.key: out for one, out in zip(self.teachers, teachers, strict=True)}
            first_batch = Batch(inputs, data_samples, student, outputs)
            check_outputs(self.tapped, first_batch)
        distilled = method_losses(self.methods, student, teachers, labels)
        if fresh:
            methods = {name: one for name, one in self.methods.named() if name in fresh}
            check_losses(self.tapped, methods, requests, first_batch, distilled)
            if torch.is_grad_enabled():  # gradients are checked as well
                self._checked = True
                self._seen |= fresh
        losses.update(distilled)
        if self.measures_gradients:
            self.gradient_norms = gradient_norms(recording.tensors, requests, losses)
        return losses

    def observe_teachers(
        self,
        batch: Mapping[str, Any],
        rois: Sequence[Tensor] = (),
        requests: Mapping[str, Requests] | None = None,
    ) -> list[NetworkOutput]:
        """Run the teachers on a preprocessed batch, each under its own preprocessing.

        Args:
            batch: ``dict(inputs=…, data_samples=…, teacher_inputs=[…])``.
            rois: Regions that the student's RoI head classified, by stage.
            requests: Requests of the methods that work in this step; all by default. A teacher
                that none of them needs does not run.
        """
        working = (self._requests if requests is None else requests).values()
        samples = batch.get('data_samples')
        inputs = [
            batch['inputs'] if n is None else batch['teacher_inputs'][n] for n in self._input_of
        ]
        outputs = []
        sharing = self._shared and self._shared.batch(self.teachers, inputs, samples)
        with sharing or nullcontext():
            for index, (teacher, own) in enumerate(zip(self.teachers, inputs, strict=True)):
                taps = [tap for one in working for tap in one.teachers[index:][:1]]
                if not any(taps) and not any(one.scores or one.boxes for one in working):
                    outputs.append(NetworkOutput())
                    continue
                try:
                    output = teacher.observe(own, rois, samples)
                except REFUSALS as error:
                    raise refusal(teacher, own, error) from error
                scaled = teacher.standardize is not None
                outputs.append(self.teacher_scales(index, output) if scaled else output)
        return outputs

    def set_teacher_scores(self, scores: Sequence[float], greater_is_better: bool = True) -> None:
        """Store the teachers' measured scores; methods that map teachers by quality get the order.

        Args:
            scores: In the order of ``teachers``.
            greater_is_better: Whether the greatest score is the best.
        """
        self.teacher_scores.copy_(torch.tensor(list(scores)))
        order = sorted(range(len(scores)), key=lambda i: scores[i], reverse=greater_is_better)
        for module in self.methods.modules():
            if isinstance(module, GroupMapping):
                module.set_order(order)


def task_losses(
    called: nn.Module, network: TappedModel, inputs: Any, data_samples: Any, weight: float
) -> dict[str, Any]:
    """Return the network's own losses as ``task.<name>``, weighted, and its metrics as they are.

    At weight 0 they are not computed and no label is needed: the network runs for its taps.

    Args:
        called: The network as it is called: bare, or wrapped for several processes.
        network: The same network.
        inputs: The preprocessed batch, (N, C, H, W).
        data_samples: The framework's.
        weight: Weight of the losses.
    """
    if not weight:
        paths = network.recorded_paths
        network.adapter.run(called, inputs, True, paths=paths, data_samples=data_samples)
        return {}
    losses = called(inputs, data_samples, mode='loss')
    return {f'task.{name}': _weighted(name, value, weight) for name, value in losses.items()}


def method_losses(
    methods: MethodSet,
    student: NetworkOutput,
    teachers: Sequence[NetworkOutput],
    labels: Tensor | None,
) -> dict[str, Tensor]:
    """Return the losses and metrics of all methods as ``<method>.<name>``."""
    losses: dict[str, Tensor] = {}
    for name, method in methods.items():
        scheduled = name in methods.numbers
        try:
            parts = (
                method(student, teachers, labels) if not scheduled or methods.works(name) else {}
            )
        except ConfigError as error:
            raise error.inside(f'methods.{name}') from None
        if scheduled:
            parts = methods.scheduled_parts(name, parts)
        losses.update({f'{name}.{part}': value for part, value in parts.items()})
    return losses


def batch_labels(
    adapter: Adapter, data_samples: Any, requests: Mapping[str, Requests]
) -> Tensor | None:
    """Return the labels of a batch if a method uses them.

    Raises:
        ConfigError: If a method needs labels and the batch has none.
    """
    if not any(one.labels or one.needs_labels for one in requests.values()):
        return None
    labels = adapter.labels(data_samples)
    if labels is None:
        for name, one in requests.items():
            if one.needs_labels:
                problem = 'needs labels, and the batch has none'
                raise ConfigError(f'methods.{name}', problem, one.label_fix)
    return labels


def with_objects(
    output: NetworkOutput,
    adapter: Adapter,
    inputs: Any,
    data_samples: Any,
    requests: Mapping[str, Requests],
) -> NetworkOutput:
    """Add the boxes of the annotated objects to an output if a method uses them.

    Raises:
        ConfigError: If the batch has none.
    """
    names = [name for name, one in requests.items() if one.objects]
    if not names:
        return output
    boxes = adapter.object_boxes(data_samples)
    if boxes is None or any(one.ndim != 2 or one.shape[1] != 4 for one in boxes):
        problem = 'needs upright boxes in the training data, and the batch has none'
        raise ConfigError(f'methods.{names[0]}', problem)
    areas = tuple(adapter.image_areas(data_samples) or ())
    return replace(output, objects=ObjectBoxes(tuple(boxes), tuple(inputs.shape[-2:]), areas))


def _weighted(name: str, value: Any, weight: float) -> Any:
    if 'loss' not in name or weight == 1.0:
        return value
    if isinstance(value, (list, tuple)):
        return [weight * item for item in value]
    return weight * value
