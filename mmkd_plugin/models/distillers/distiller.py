"""One student, any number of teachers, any number of methods."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkd_plugin.adapters import host_of
from mmkd_plugin.adapters.teacher import Teacher, build_teachers
from mmkd_plugin.errors import config_key, no_nan, non_negative_number
from mmkd_plugin.loading.build import build_network, student_config
from mmkd_plugin.models.distillers.class_names import classes_of_data, require_names_of_data
from mmkd_plugin.models.distillers.connect import connect
from mmkd_plugin.models.distillers.methods import active_methods
from mmkd_plugin.models.distillers.task import labels_for, task_losses
from mmkd_plugin.models.distillers.teacher_inputs import share_inputs
from mmkd_plugin.models.methods import Method
from mmkd_plugin.outputs import Knowledge
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class Distiller(BaseModel):
    """Train a stock model as a student; predict, export and evaluate as that student.

    Losses are logged as ``task.<name>`` (the student's own) and ``<method>.<name>``. When all weights of all methods are 0, no teacher is
    built and the run is bit-identical to plain training.

    Args:
        student: A model dict, a config path or ``'pkg::path'``.
        teachers: ``dict(name=…, model=…, checkpoint=…)`` each, with ``cfg_options`` and a ``data_preprocessor`` of its own if need be; see
            :class:`~mmkd_plugin.adapters.teacher.Teacher`.
        methods: Methods by name, e.g. ``dict(kd=dict(type='SoftTarget'))``.
        task_weight: Of the student's own losses. At 0 they are not computed, and no label is needed.
        cfg_options: Changes to make in ``student``, e.g. ``{'model.head.num_classes': 10}``.
        data_preprocessor: The run's; for the student if its dict has none.
        probe_shape: (channels, height, width) of an input that the student accepts, if the usual ones do not fit.
        init_cfg: As in every MMEngine model.

    Raises:
        ValueError: If anything in the config does not fit; the message begins with the key.
    """

    data_preprocessor: nn.Module
    teacher_scores: Tensor
    teacher_sha256: Tensor

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
        given = dict(
            student=student,
            teachers=teachers,
            methods=methods,
            cfg_options=cfg_options,
            data_preprocessor=data_preprocessor,
        )
        for key, config in given.items():
            no_nan(key, config)
        resolved = student_config(student, 'student', cfg_options, data_preprocessor)
        contract = copy.deepcopy(
            resolved.get('data_preprocessor')
        )  # frameworks write into what they build from
        if contract is not None and '_scope_' in resolved:
            contract.setdefault('_scope_', resolved['_scope_'])  # for teachers of another framework
        network = build_network(resolved, 'student')
        super().__init__(getattr(network, 'data_preprocessor', None), init_cfg)
        self.student = network
        self.task_weight = task_weight
        self.host = host_of(network)
        self.teachers: list[Teacher] = []
        with torch.random.fork_rng(
            devices=[]
        ):  # the student's random numbers are those of a plain run
            self.methods = active_methods(methods)
            if self.methods:
                self.teachers = build_teachers(teachers, contract)
                self._taps = connect(
                    network, self.host, self.teachers, dict(self._methods()), probe_shape
                )
                if (
                    not task_weight
                    and self.host.scores_need_training
                    and any(m.needs_scores for _, m in self._methods())
                ):
                    raise ValueError(
                        'task_weight: expected a number > 0 where class scores of regions are compared, got 0: the regions are '
                        "those that the student's own losses sample; use methods on taps alone, or a weight as small as you like"
                    )
                contracts = [
                    cast(nn.Module, teacher.model.data_preprocessor) for teacher in self.teachers
                ]
                self.data_preprocessor, self._input_of = share_inputs(
                    self.data_preprocessor, contracts
                )
            elif not teachers:
                raise ValueError('teachers: expected a list of at least one teacher, got none')
        if not task_weight and not self.methods:
            raise ValueError(
                'task_weight: expected a number > 0 where no method has a weight, got 0: nothing would be trained'
            )
        hashes = [list(teacher.sha256) for teacher in self.teachers]
        self.register_buffer(
            'teacher_sha256', torch.tensor(hashes, dtype=torch.uint8).reshape(len(hashes), 32)
        )
        self.register_buffer('teacher_scores', torch.full((len(self.teachers),), torch.nan))

    def forward(
        self,
        inputs: Any,
        data_samples: Any = None,
        mode: str = 'tensor',
        teacher_inputs: Sequence[Any] = (),
    ) -> Any:
        """As the student, except that ``mode='loss'`` adds the methods' losses.

        Args:
            inputs: The preprocessed batch, (N, C, H, W).
            data_samples: The host's.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.
            teacher_inputs: The batch under each other input contract.

        Raises:
            ValueError: In ``'loss'``, if labels are needed and missing, or the data are of another task or of other classes.
        """
        if mode != 'loss':
            return self.student(inputs, data_samples, mode=mode)
        labels = labels_for(
            'student', self.host, data_samples, self.task_weight, dict(self._methods())
        )
        require_names_of_data(self.teachers, classes_of_data())
        if not self.methods:
            return self._task(inputs, data_samples)
        with self._taps.record(self.student) as features:
            losses = self._task(inputs, data_samples)
        student = self.host.knowledge(self.student, features, inputs, data_samples)
        teachers = self.ask_teachers(
            {'inputs': inputs, 'teacher_inputs': teacher_inputs}, student.rois
        )
        for name, method in self._methods():
            with config_key(f'methods.{name}'):
                losses.update(
                    {
                        f'{name}.{part}': value
                        for part, value in method(student, teachers, labels).items()
                    }
                )
        return losses

    @property
    def bbox_head(self) -> nn.Module:
        """A detector's: MMDet's ``YOLOXModeSwitchHook`` reaches for it."""
        return cast(nn.Module, self.student.bbox_head)

    def ask_teachers(
        self, batch: Mapping[str, Any], rois: Sequence[Tensor] = ()
    ) -> list[Knowledge]:
        """What every teacher says of a preprocessed batch; each sees its own input contract.

        Args:
            batch: ``dict(inputs=…, teacher_inputs=[…])``.
            rois: The regions that the student's RoI head was asked about, by stage.
        """
        return [
            teacher(batch['inputs'] if index is None else batch['teacher_inputs'][index], rois)
            for teacher, index in zip(self.teachers, self._input_of, strict=True)
        ]

    def set_teacher_scores(self, scores: Sequence[float], greater_is_better: bool = True) -> None:
        """Take the teachers' measured scores, in the order of ``teachers``; methods that map teachers by quality learn their order."""
        self.teacher_scores.copy_(torch.tensor(list(scores)))
        order = sorted(
            range(len(scores)), key=lambda index: scores[index], reverse=greater_is_better
        )
        for _, method in self._methods():
            method.set_teacher_order(order)

    def _methods(self) -> Iterator[tuple[str, Method]]:
        return ((name, cast(Method, method)) for name, method in self.methods.items())

    def _task(self, inputs: Any, data_samples: Any) -> dict[str, Any]:
        return task_losses(self.student, self.host, inputs, data_samples, self.task_weight)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(f'{prefix}teacher_sha256')
        if saved is not None:
            present = self.teacher_sha256.cpu()
            changed = [
                teacher.name
                for index, teacher in enumerate(self.teachers)
                if index >= len(saved) or not torch.equal(saved[index].cpu(), present[index])
            ]
            if changed or len(saved) != len(present):
                raise ValueError(
                    f'teachers: expected the {len(saved)} checkpoint files that the run began with, got {len(present)}, '
                    f'of which changed: {", ".join(changed) or "none"}; put the old ones back, or start a new run from the '
                    'exported student'
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
