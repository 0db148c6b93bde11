"""Hints from every teacher to its own group of student layers."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.levels import WORDS, LevelFinder
from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import ConfigError, config_key
from mmkd_plugin.models.connectors import HintRegressor
from mmkd_plugin.models.losses import FeatureLoss, hint_loss
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.feature_method import build_loss
from mmkd_plugin.models.methods.group_mapping import GroupMapping
from mmkd_plugin.models.methods.tap_checks import check_channels
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class GroupHints(Method):
    r"""Regress every teacher's last map from one group of student layers: AMTML-KD's hints, alone.

    .. math:: L = w \sum_t \lVert u_t - F_t(v_{f(t)}) \rVert^2

    with one regressor :math:`F_t` a teacher, the group :math:`f(t)` of that teacher, and the mean
    over elements for the norm.

    Args:
        student_groups: Taps of the student's layer groups, low to high; or ``'stages'`` or
            ``'neck'``, see :class:`~mmkd_plugin.adapters.levels.LevelFinder`.
        teacher_taps: The last feature map of every teacher: one tap for all, or one each; or
            ``'last'``, the default where ``student_groups`` is a word.
        loss_weight: :math:`w`.
        mapping: The group of each teacher: ``'best_high'`` (the better the teacher, the higher the
            group), ``'best_low'``, ``'random'`` (by ``seed``), or the index of the group for each
            teacher. The first two need the hook ``EvaluateTeachers``.
        seed: Seed of ``mapping='random'``.
        teacher_channels: Channels of the teachers' maps; checked if stated.
        loss: Config of another loss of image by image, such as ``dict(type='CWDLoss')``.

    Raises:
        ConfigError: If taps are missing, or there are fewer groups than teachers.

    Example:
        >>> maps = {'layer2': torch.rand(2, 4, 8, 8), 'layer3': torch.rand(2, 8, 4, 4)}
        >>> student = NetworkOutput(features=maps)
        >>> teachers = [NetworkOutput(features={'last': torch.rand(2, 32, 4, 4)}) for _ in range(2)]
        >>> method = GroupHints(['layer2', 'layer3'], 'last', mapping=[1, 0])
        >>> probes = [TeacherProbe('teacher', one, nn.Identity()) for one in teachers]
        >>> method.build(Probe('student', student), probes)
        >>> [regressor.weight.shape[1] for regressor in method.regressors]
        [8, 4]
        >>> list(method(student, teachers, None))
        ['loss_hint']

    Reference:
        Liu et al., AMTML-KD, Neurocomputing 415, 2020, section 3.4; Romero et al., FitNets, ICLR
        2015, eq. 3.
    """

    loss_weight: float

    def __init__(
        self,
        student_groups: str | Sequence[str],
        teacher_taps: str | Sequence[str] = (),
        loss_weight: float = 1.0,
        mapping: str | Sequence[int] = 'best_high',
        seed: int = 0,
        teacher_channels: Sequence[int] | None = None,
        loss: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(loss_weight=loss_weight)
        if isinstance(student_groups, str) and student_groups in WORDS:
            teacher_taps = teacher_taps or 'last'
        self._mapping = mapping, seed
        groups = (student_groups,) if isinstance(student_groups, str) else tuple(student_groups)
        for key, taps in (('student_groups', groups), ('teacher_taps', teacher_taps)):
            if not taps:
                fix = 'Name the taps, or set the weight of the hints to 0.'
                raise ConfigError(key, 'is missing, and hints need it', fix, found=taps)
        self.student_groups = groups
        self.teacher_taps = teacher_taps
        self.teacher_channels = teacher_channels
        self.group_mapping = GroupMapping(mapping, len(groups), seed)
        self.regressors = nn.ModuleList()
        self.loss = hint_loss if loss is None else build_loss(loss, FeatureLoss)

    def require_image_weights(self, key: str) -> None:
        """Refuse a loss that cannot weigh the images of a batch.

        Args:
            key: The config key of the loss.

        Raises:
            ConfigError: With the losses that can.
        """
        loss = self.loss
        if isinstance(loss, FeatureLoss) and not loss.takes_weights:
            raise ConfigError(
                f'{key}.type',
                "has no form with weights of images, which hint_weighting='image' needs",
                "Use 'HintLoss', 'CWDLoss' or 'PKDLoss', or set hint_weighting='uniform'.",
                found=type(loss).__name__,
            )

    def choose_taps(self, student: LevelFinder, teachers: Sequence[LevelFinder]) -> list[str]:
        chosen: list[str] = []
        if len(self.student_groups) == 1 and self.student_groups[0] in WORDS:
            with config_key('student_groups'):
                levels = student.levels(self.student_groups[0], trained=True)
            self.student_groups = tuple(level.tap for level in levels)
            self.group_mapping = GroupMapping(self._mapping[0], len(levels), self._mapping[1])
            chosen.append(f'groups of {student.key}: {", ".join(map(str, levels))}')
        if isinstance(self.teacher_taps, str) and self.teacher_taps in WORDS:
            with config_key('teacher_taps'):
                last = [teacher.levels(self.teacher_taps)[-1] for teacher in teachers]
            self.teacher_taps = tuple(level.tap for level in last)
            pairs = zip(teachers, last, strict=True)
            chosen += [f'hints from {level} of {teacher.key}' for teacher, level in pairs]
        return chosen

    def requests(self, num_teachers: int) -> Requests:
        return Requests(self.student_groups, tuple((tap,) for tap in self._taps(num_teachers)))

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        number = len(teachers)
        maps = [student.feature(tap) for tap in self.student_groups]
        channels = [check_channels('student_groups', None, found) for found in maps]
        self.group_mapping.build(number)
        stated = [None] * number if self.teacher_channels is None else self.teacher_channels
        if len(stated) != number:
            raise ConfigError(
                'teacher_channels',
                f'must have one number for each of {number} teachers',
                found=stated,
            )
        for index, (teacher, tap) in enumerate(zip(teachers, self._taps(number), strict=True)):
            target = teacher.feature(tap)
            possible = self.group_mapping.possible_groups(index)
            for group in possible:
                if maps[group].ndim != target.ndim:
                    raise ConfigError(
                        f'student_groups[{group}]',
                        f'must tap the same form as {teacher.key}, {tuple(target.shape)}',
                        found=tuple(maps[group].shape),
                    )
            out_channels = check_channels(f'teacher_channels[{index}]', stated[index], target)
            in_channels = [channels[group] for group in possible]
            self.regressors.append(HintRegressor(in_channels, out_channels))

    def forward(
        self,
        student: NetworkOutput,
        teachers: Sequence[NetworkOutput],
        labels: Tensor | None,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss; see :meth:`Method.forward`.

        Args:
            student: Outputs with gradient.
            teachers: Outputs without gradient.
            labels: Not used.
            weights: Weights of the teachers for each image, (N, T), without gradient. None adds up
                the teachers' losses.
        """
        groups = self.group_mapping.groups()
        total = torch.zeros((), device=next(iter(student.features.values())).device)
        for index, tap in enumerate(self._taps(len(teachers))):
            target = teachers[index].feature(tap)
            source = student.feature(self.student_groups[groups[index]])
            pair = self.regressors[index](source, target.shape[2:]), target
            if weights is None:
                total = total + self.loss(*pair)
            else:
                total = total + self.loss(*pair, weights=weights[:, index] / len(weights))
        return {'loss_hint': self.loss_weight * total}

    def _taps(self, count: int) -> tuple[str, ...]:
        taps = self.teacher_taps
        if isinstance(taps, str):
            return (taps,) * count
        if len(taps) != count:
            raise ConfigError(
                'teacher_taps', f'must be one tap, or one for each of {count} teachers', found=taps
            )
        return cast(tuple[str, ...], tuple(taps))
