"""IE-KD: one half of the student's channels inherits the teacher's factors, the other explores."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.probe import TeacherProbe
from mmkd_plugin.errors import ConfigError, construct, mapping, one_of
from mmkd_plugin.models.connectors import ChannelSplit
from mmkd_plugin.models.losses import exploration_loss, factor_cosine, linear_cka
from mmkd_plugin.models.losses.exploration import DISTANCES as EXPLORE_DISTANCES
from mmkd_plugin.models.losses.factor_distance import DISTANCES as INHERIT_DISTANCES
from mmkd_plugin.models.losses.factor_distance import REDUCTIONS
from mmkd_plugin.models.methods.ie_kd_features import (
    PARTS,
    AttentionTransform,
    FactorTransform,
    FeatureTransform,
    OverhaulTransform,
)
from mmkd_plugin.models.methods.paired import Pair, PairedMethod
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS

KINDS = ('factor', 'attention', 'overhaul')


@MODELS.register_module()
class IEKD(PairedMethod):
    r"""Split the student's map: one part inherits the teacher's factor, the other explores.

    .. math:: L = \lambda_{inh} \sum_p d(F_{inh}^p, F_T^p)
              - \lambda_{exp} \sum_p d(F_{exp}^p, F_T^p)

    The channels are split. One part is pulled to the factor, the other is pushed away from it. Each
    part has an encoder, and :math:`F_T` comes from the frozen encoder of a paraphraser. The
    distance :math:`d` is the mean absolute difference of factors that have norm 1 in each image.

    Metrics that are logged:

    - ``inherit_cosine``, ``explore_cosine``: mean cosine of each part's factor with the teacher's.
    - ``cka``: linear CKA of the two parts over all locations of all images. If it stays high while
      the exploration loss falls, only the encoder explores.
    - ``inherit_gradient``, ``explore_gradient``: norm of the gradient that these losses sent to
      each part in the step before, times the loss scale if there is one.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`. With
            ``knowledge='factor'`` a pair's ``checkpoint`` is that of its paraphraser, which
            ``ParaphraserTrainer`` wrote. With ``'overhaul'`` the taps are maps before a ReLU, and
            ``norm`` is the path of the teacher's BatchNorm layer before it.
        knowledge: The compared features: ``'factor'`` (the paper's IE-FT), ``'attention'`` (IE-AT)
            or ``'overhaul'`` (IE-OD).
        inherit_weight, explore_weight: :math:`\lambda_{inh}` and :math:`\lambda_{exp}`.
        split: Arguments of :class:`~mmkd_plugin.models.connectors.ChannelSplit`:
            ``dict(ratio=0.5, mode='random', seed=0)``.
        encoder: Arguments of :class:`~mmkd_plugin.models.connectors.FactorEncoder`:
            ``dict(norm='bn')``.
        paraphraser: Arguments of paraphrasers that learn with the peers (IE-DML), where pairs have
            no checkpoint: ``dict(factor_rate=0.5, norm='bn')``.
        inherit_distance: ``'l1'``, ``'l2'``, ``'cosine'`` or ``'partial_l2'``. Default: ``'l1'``
            for factors, ``'l2'`` for attention, overhaul's own for overhaul.
        explore_distance: One of these, ``'orthogonal'`` or ``'cka'``. Default: ``'l1'``, ``'l2'``
            and ``'partial_l2'``.
        reduction: ``'mean'``, the paper's, shrinks with the size of the factor;
            ``'size_invariant'`` does not: see
            :func:`~mmkd_plugin.models.losses.factor_distance`.
        explore_target: ``'teacher'``: away from :math:`F_T`, as in the paper's figure and its code;
            ``'student'``: away from :math:`F_{inh}`, detached, the :math:`F_S` of some texts.
        explore_direction: ``'away'``, or ``'toward'``: the control that shows whether exploration
            has an effect.

    Raises:
        ConfigError: If a number or a word is out of range, a tap records no map, a part has no
            channel, or a paraphraser does not fit its pair.

    Example:
        >>> from mmkd_plugin.adapters import Probe
        >>> student = NetworkOutput(features={'layer3': torch.rand(2, 8, 4, 4)})
        >>> teacher = NetworkOutput(features={'layer3': torch.rand(2, 32, 4, 4)})
        >>> method = IEKD([dict(student='layer3', teacher='layer3')], knowledge='attention')
        >>> probe = TeacherProbe('teacher', teacher, nn.Identity())
        >>> method.build(Probe('student', student), [probe])
        >>> [name for name in method(student, [teacher], None) if 'loss' in name]
        ['loss_inherit', 'loss_explore']
        >>> method.splits[0].inherit_index.shape, method.splits[0].explore_index.shape
        (torch.Size([4]), torch.Size([4]))

    Reference:
        Huang et al., Revisiting Knowledge Distillation: An Inheritance and Exploration Framework,
        CVPR 2021, eq. 1-5. IE-AT and IE-OD are in its tables without equations: their construction
        here is inferred.
    """

    pair_keys = ('checkpoint', 'norm')
    inherit_weight: float
    explore_weight: float
    gradient_norms: Tensor

    def __init__(
        self,
        pairs: Sequence[Mapping[str, Any]] | str,
        knowledge: str = 'factor',
        inherit_weight: float = 50.0,
        explore_weight: float = 50.0,
        split: Mapping[str, Any] | None = None,
        encoder: Mapping[str, Any] | None = None,
        paraphraser: Mapping[str, Any] | None = None,
        inherit_distance: str | None = None,
        explore_distance: str | None = None,
        reduction: str = 'mean',
        explore_target: str = 'teacher',
        explore_direction: str = 'away',
    ) -> None:
        super().__init__(pairs, inherit_weight=inherit_weight, explore_weight=explore_weight)
        self.weights = {'inherit': self.inherit_weight, 'explore': self.explore_weight}
        self.transform = _transform(knowledge, self.pairs, paraphraser, encoder)
        self.inherit_distance = self.transform.distances['inherit']
        if inherit_distance is not None:
            self.inherit_distance = one_of('inherit_distance', inherit_distance, INHERIT_DISTANCES)
        self.explore_distance = self.transform.distances['explore']
        if explore_distance is not None:
            self.explore_distance = one_of('explore_distance', explore_distance, EXPLORE_DISTANCES)
        self.reduction = one_of('reduction', reduction, REDUCTIONS)
        self.explore_target = one_of('explore_target', explore_target, ('teacher', 'student'))
        self.explore_direction = one_of('explore_direction', explore_direction, ('away', 'toward'))
        if explore_target == 'student' and not inherit_weight:
            raise ConfigError(
                'explore_target',
                "must be 'teacher' where nothing inherits (inherit_weight=0)",
                found=explore_target,
            )
        self._split = mapping('split', split, "dict(ratio=0.5, mode='random', seed=0)")
        self.splits = nn.ModuleList()
        self.register_buffer('gradient_norms', torch.zeros(0, len(PARTS)), persistent=False)

    @property
    def auxiliary(self) -> nn.Module | None:
        return self.transform.auxiliary

    def build_connectors(
        self, channels: Sequence[tuple[int, int]], teachers: Sequence[TeacherProbe]
    ) -> None:
        self.gradient_norms = self.gradient_norms.new_zeros(len(self.pairs), len(PARTS))
        parts: dict[str, list[int]] = {part: [] for part in PARTS if self.weights[part]}
        for source, _ in channels:
            split = construct('split', ChannelSplit, dict(channels=source, **self._split))
            self.splits.append(split)
            for part, counts in parts.items():
                counts.append(len(split.get_buffer(f'{part}_index')))
        self.transform.build(parts, [target for _, target in channels], teachers)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        for number, (source, target) in enumerate(self.maps(student, teachers)):
            for name, value in self._compare(number, source, target).items():
                found.setdefault(name, []).append(value)
        return {
            name: sum(values[1:], values[0]) if 'loss' in name else torch.stack(values).mean()
            for name, values in found.items()
        }

    def reduce(self, number: int, teacher: Tensor) -> Tensor:
        return self.transform.encode_teacher(number, teacher)

    def reduction_name(self, number: int) -> str:
        return self.transform.name(number)

    def _compare(self, number: int, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the losses and metrics of one pair."""
        parts = dict(zip(PARTS, self.splits[number](source), strict=True))
        self._record_gradients(number, parts)
        transform = self.transform
        own = {
            part: transform.encode_student(part, number, parts[part])
            for part in PARTS
            if self.weights[part]
        }
        found = {}
        if 'inherit' in own:
            loss = transform.inheritance(
                number, own['inherit'], target, self.inherit_distance, self.reduction
            )
            found['loss_inherit'] = self.inherit_weight * loss
        if 'explore' in own:
            other = target if self.explore_target == 'teacher' else own['inherit'].detach()
            loss = exploration_loss(own['explore'], other, self.explore_distance, self.reduction)
            signed = loss if self.explore_direction == 'away' else -loss
            found['loss_explore'] = self.explore_weight * signed
        with torch.no_grad():
            for column, part in enumerate(PARTS):
                if part in own:
                    found[f'{part}_cosine'] = factor_cosine(own[part], target).mean()
                    found[f'{part}_gradient'] = self.gradient_norms[number, column].clone()
            # Locations as rows: with fewer rows than channels any two parts would look alike.
            rows = [values.movedim(1, -1).flatten(0, -2) for values in parts.values()]
            found['cka'] = linear_cka(*rows)
        return found

    def _record_gradients(self, number: int, parts: Mapping[str, Tensor]) -> None:
        """Record in the backward pass the norm of the gradient that reaches each part.

        The losses of this method are all that depends on the parts.
        """
        for column, values in enumerate(parts.values()):
            if values.requires_grad:
                values.register_hook(partial(_record, self.gradient_norms[number, column]))


def _record(norm: Tensor, gradient: Tensor) -> None:
    norm.copy_(gradient.detach().float().norm())


def _transform(
    knowledge: str,
    pairs: Sequence[Pair],
    paraphraser: Mapping[str, Any] | None,
    encoder: Mapping[str, Any] | None,
) -> FeatureTransform:
    """Build the kind of transform that the config names; refuse keys of another kind."""
    one_of('knowledge', knowledge, KINDS)
    given: dict[str, Any] = dict(paraphraser=paraphraser, encoder=encoder)
    kinds = dict.fromkeys(given, 'factor')
    for number, pair in enumerate(pairs):
        for name, kind in (('checkpoint', 'factor'), ('norm', 'overhaul')):
            given[f'pairs[{number}].{name}'] = getattr(pair, name)
            kinds[f'pairs[{number}].{name}'] = kind
    for key, value in given.items():
        if value is not None and kinds[key] != knowledge:
            problem = f'belongs to knowledge={kinds[key]!r}, not to knowledge={knowledge!r}'
            raise ConfigError(key, problem, 'Remove it, or change knowledge.', found=value)
    if knowledge == 'factor':
        return FactorTransform(pairs, paraphraser, encoder)
    return AttentionTransform() if knowledge == 'attention' else OverhaulTransform(pairs)
