"""IE-KD: one half of the student's channels inherits the teacher's factors, the other explores what they lack."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import config_key, non_negative_number, one_of
from mmkd_plugin.models.connectors import ChannelSplit
from mmkd_plugin.models.losses import exploration_loss, factor_cosine, linear_cka
from mmkd_plugin.models.losses.exploration import DISTANCES as EXPLORE_DISTANCES
from mmkd_plugin.models.losses.factor_distance import DISTANCES as INHERIT_DISTANCES
from mmkd_plugin.models.losses.factor_distance import REDUCTIONS
from mmkd_plugin.models.methods.compared import (
    PARTS,
    Compared,
    ComparedAttention,
    ComparedFactors,
    ComparedOverhaul,
)
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.outputs import Knowledge
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class IEKD(PairedMethod):
    r"""Split the student's map along its channels; pull one part to the teacher's factor, push the other away from it.

    .. math:: L = \lambda_{inh} \sum_p d(F_{inh}^p, F_T^p) - \lambda_{exp} \sum_p d(F_{exp}^p, F_T^p)

    with an encoder of its own for each part, :math:`F_T` from the frozen encoder of a paraphraser, and :math:`d` the mean
    absolute difference of factors that have norm 1 in each image.

    Facts that are logged: ``inherit_cosine`` and ``explore_cosine``, the mean cosine of each part's factor with the teacher's;
    ``cka``, the linear CKA of the two parts over all places of all images: where it stays high while the exploration loss falls,
    the encoder alone explores; ``inherit_gradient`` and ``explore_gradient``, the norm of what these losses sent to each part in
    the step before (times the loss scale, where there is one).

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`. With ``knowledge='factor'`` a pair's ``checkpoint`` is that of
            its paraphraser, which a ``ParaphraserTrainer`` wrote; with ``'overhaul'`` the taps are maps before a ReLU, and
            ``norm`` is the path of the teacher's BatchNorm layer before it.
        knowledge: What is compared: ``'factor'`` (the paper's IE-FT), ``'attention'`` (IE-AT) or ``'overhaul'`` (IE-OD).
        inherit_weight, explore_weight: :math:`\lambda_{inh}` and :math:`\lambda_{exp}`.
        split: Of :class:`~mmkd_plugin.models.connectors.ChannelSplit`: ``dict(ratio=0.5, mode='random', seed=0)``.
        encoder: Of :class:`~mmkd_plugin.models.connectors.FactorEncoder`: ``dict(norm='bn')``.
        paraphraser: Of paraphrasers that learn along (IE-DML), where pairs have no checkpoint: ``dict(factor_rate=0.5, norm='bn')``.
        inherit_distance: ``'l1'``, ``'l2'``, ``'cosine'``, ``'partial_l2'``. Default: ``'l1'`` for factors, ``'l2'`` for attention,
            overhaul's own for overhaul.
        explore_distance: These, ``'orthogonal'`` or ``'cka'``. Default: ``'l1'``, ``'l2'`` and ``'partial_l2'``.
        reduction: ``'mean'``, the paper's, shrinks with the size of the factor; ``'size_invariant'`` does not: see
            :func:`~mmkd_plugin.models.losses.factor_distance`.
        explore_target: ``'teacher'``: away from :math:`F_T`, as the paper's figure and its code; ``'student'``: from
            :math:`F_{inh}`, detached, the :math:`F_S` that some texts print.
        explore_direction: ``'away'``, or ``'toward'``: the control that shows whether exploring does anything.

    Raises:
        ValueError: If a number or a word is out of range, a tap gives no map, a part has no channel, or a paraphraser was not made
            for its pair.

    Source: Huang et al., Revisiting Knowledge Distillation: An Inheritance and Exploration Framework, CVPR 2021, eq. 1-5. IE-AT and
    IE-OD are in its tables without equations: their construction here is inferred.
    """

    pair_keys = frozenset({'checkpoint', 'norm'})
    gradient_norms: Tensor

    def __init__(
        self,
        pairs: Sequence[Mapping[str, Any]],
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
        super().__init__(pairs)
        self.weights = {
            'inherit': non_negative_number('inherit_weight', inherit_weight),
            'explore': non_negative_number('explore_weight', explore_weight),
        }
        self.compared = _compared(knowledge, self.pairs, paraphraser, encoder)
        self.inherit_distance = self.compared.distances['inherit']
        if inherit_distance is not None:
            self.inherit_distance = one_of('inherit_distance', inherit_distance, INHERIT_DISTANCES)
        self.explore_distance = self.compared.distances['explore']
        if explore_distance is not None:
            self.explore_distance = one_of('explore_distance', explore_distance, EXPLORE_DISTANCES)
        self.reduction = one_of('reduction', reduction, REDUCTIONS)
        self.explore_target = one_of('explore_target', explore_target, ('teacher', 'student'))
        self.explore_direction = one_of('explore_direction', explore_direction, ('away', 'toward'))
        if explore_target == 'student' and not inherit_weight:
            raise ValueError(
                "explore_target: expected 'teacher' where nothing inherits (inherit_weight=0), got 'student'"
            )
        self._split = dict(split or {})
        self.splits = nn.ModuleList()
        self.register_buffer(
            'gradient_norms', torch.zeros(len(self.pairs), len(PARTS)), persistent=False
        )

    @property
    def active(self) -> bool:
        return any(self.weights.values())

    @property
    def apart(self) -> nn.Module | None:
        return self.compared.targets.apart if isinstance(self.compared, ComparedFactors) else None

    @property
    def files_of_teachers(self) -> Sequence[tuple[int, bytes]]:
        return (
            self.compared.targets.files_of_teachers
            if isinstance(self.compared, ComparedFactors)
            else ()
        )

    def norms_of_teacher(self, index: int, count: int) -> tuple[str, ...]:
        return (
            self.compared.norms_of_teacher(index)
            if isinstance(self.compared, ComparedOverhaul)
            else ()
        )

    def bind(self, student: Knowledge, teachers: Sequence[Knowledge]) -> None:
        channels = list(self.channels(student, teachers))
        parts: dict[str, list[int]] = {part: [] for part in PARTS if self.weights[part]}
        for number, (source, _) in enumerate(channels):
            with config_key(f'pairs[{number}].student: split'):
                split = ChannelSplit(source, **self._split)
            self.splits.append(split)
            for part, counts in parts.items():
                counts.append(len(split.get_buffer(f'{part}_index')))
        self.compared.bind(teachers, parts, [target for _, target in channels])

    def forward(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        losses: dict[str, list[Tensor]] = {}
        for number, (source, target) in enumerate(self.maps(student, teachers)):
            for name, value in self._compare(number, source, target).items():
                losses.setdefault(name, []).append(value)
        return {
            name: sum(values[1:], values[0]) if 'loss' in name else torch.stack(values).mean()
            for name, values in losses.items()
        }

    def _compare(self, number: int, source: Tensor, target_map: Tensor) -> dict[str, Tensor]:
        """The losses and facts of one pair."""
        parts = dict(zip(PARTS, self.splits[number](source), strict=True))
        self._watch(number, parts)
        target = self.compared.of_teacher(number, target_map)
        own = {
            part: self.compared.of_part(part, number, parts[part])
            for part in PARTS
            if self.weights[part]
        }
        found = {}
        if 'inherit' in own:
            loss = self.compared.inheritance(
                number, own['inherit'], target, self.inherit_distance, self.reduction
            )
            found['loss_inherit'] = self.weights['inherit'] * loss
        if 'explore' in own:
            away_from = target if self.explore_target == 'teacher' else own['inherit'].detach()
            loss = exploration_loss(
                own['explore'], away_from, self.explore_distance, self.reduction
            )
            found['loss_explore'] = self.weights['explore'] * (
                loss if self.explore_direction == 'away' else -loss
            )
        with torch.no_grad():
            for column, part in enumerate(PARTS):
                if part in own:
                    found[f'{part}_cosine'] = factor_cosine(own[part], target).mean()
                    found[f'{part}_gradient'] = self.gradient_norms[number, column].clone()
            # Places as rows: a batch has many more of them than a part has channels, or any two parts would look alike.
            found['cka'] = linear_cka(
                *(values.movedim(1, -1).flatten(0, -2) for values in parts.values())
            )
        return found

    def _watch(self, number: int, parts: Mapping[str, Tensor]) -> None:
        """Let the backward pass of this step note the gradient that reaches each part: nothing else depends on a part."""
        for column, values in enumerate(parts.values()):
            if values.requires_grad:
                values.register_hook(partial(_note, self.gradient_norms[number, column]))


def _note(norm: Tensor, gradient: Tensor) -> None:
    norm.copy_(gradient.detach().float().norm())


def _compared(
    knowledge: str,
    pairs: Sequence[Mapping[str, Any]],
    paraphraser: Mapping[str, Any] | None,
    encoder: Mapping[str, Any] | None,
) -> Compared:
    """The kind of knowledge that the config asks for; keys that belong to another kind are refused."""
    one_of('knowledge', knowledge, ('factor', 'attention', 'overhaul'))
    others = {'checkpoint': 'factor', 'norm': 'overhaul'}
    for number, pair in enumerate(pairs):
        for key, kind in others.items():
            if key in pair and kind != knowledge:
                raise ValueError(
                    f'pairs[{number}].{key}: expected only with knowledge={kind!r}, got it with {knowledge!r}'
                )
    for key, value in (('paraphraser', paraphraser), ('encoder', encoder)):
        if value is not None and knowledge != 'factor':
            raise ValueError(
                f"{key}: expected only with knowledge='factor', got it with {knowledge!r}"
            )
    if knowledge == 'factor':
        return ComparedFactors(pairs, paraphraser, encoder)
    return ComparedAttention() if knowledge == 'attention' else ComparedOverhaul(pairs)
