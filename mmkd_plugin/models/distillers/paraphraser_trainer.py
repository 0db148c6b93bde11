"""Stage 1 of inheritance and exploration: a paraphraser learns to reconstruct one map of a frozen teacher."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkd_plugin.adapters.probe import find_shape
from mmkd_plugin.adapters.taps import FeatureTaps, replaced
from mmkd_plugin.adapters.teacher import Teacher, build_teacher
from mmkd_plugin.errors import config_key, no_nan, one_of
from mmkd_plugin.models.connectors import Paraphraser
from mmkd_plugin.models.connectors.paraphraser_file import read_record, write_record
from mmkd_plugin.models.losses import reconstruction_loss, relative_error
from mmkd_plugin.registry import MODELS, SCOPE


@MODELS.register_module()
class ParaphraserTrainer(BaseModel):
    r"""Train a paraphraser R on a map f of a teacher, as an ordinary run; stage 2 takes its checkpoint.

    .. math:: L_{rec} = \lVert f - R(f) \rVert

    Training needs no labels, and runs the teacher no further than the tap. It logs ``loss_rec`` and ``relative_error``,
    :math:`\lVert R(f) - f \rVert_2 / \lVert f \rVert_2` over the batch. Predictions are the teacher's when the layers behind the
    tap read R(f): so the run's own evaluator tells what the reconstruction costs in accuracy. The checkpoint holds the paraphraser
    alone, with a record of how it is built, of the tap, and of the teacher's file.

    Args:
        teacher: ``dict(name=…, model=…, checkpoint=…)``, with ``cfg_options`` and a ``data_preprocessor`` of its own if need be; see
            :class:`~mmkd_plugin.adapters.teacher.Teacher`. Batches are made as its own preprocessor makes them.
        tap: Its map, e.g. ``'backbone.layer3'``. One tap a run.
        paraphraser: ``dict(type='Paraphraser', factor_rate=0.5, …)``; ``in_channels`` is inferred, and checked if it is stated.
        distance: ``'l1'`` as in the authors' code, or ``'l2'`` as in the paper; see :func:`~mmkd_plugin.models.losses.reconstruction_loss`.
        data_preprocessor: The run's; for a teacher without its own.
        probe_shape: (channels, height, width) of an input that the teacher accepts, if the usual ones do not fit.
        init_cfg: As in every MMEngine model.

    Raises:
        ValueError: If anything in the config does not fit; the message begins with the key.

    Source: Kim et al., Paraphrasing Complex Network, NeurIPS 2018, eq. 1; Huang et al., Revisiting Knowledge Distillation, CVPR 2021.
    """

    record: Tensor
    teacher_sha256: Tensor

    def __init__(
        self,
        teacher: Mapping[str, Any],
        tap: str,
        paraphraser: Mapping[str, Any] | None = None,
        distance: str = 'l1',
        data_preprocessor: Mapping[str, Any] | None = None,
        probe_shape: Sequence[int] | None = None,
        init_cfg: Any = None,
    ) -> None:
        for key, config in dict(teacher=teacher, paraphraser=paraphraser).items():
            no_nan(key, config)
        distance = one_of('distance', distance, ('l1', 'l2'))
        frozen = build_teacher(teacher, data_preprocessor, 'teacher')
        super().__init__(cast(nn.Module, frozen.model.data_preprocessor), init_cfg)
        self.teacher = frozen
        self.tap = tap
        self.distance = distance
        self.paraphraser = _build_paraphraser(paraphraser, tap, _probe(frozen, tap, probe_shape))
        self.register_buffer('record', write_record(tap, self.paraphraser.arguments))
        self.register_buffer('teacher_sha256', torch.tensor(list(frozen.sha256), dtype=torch.uint8))

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Losses, the teacher's prediction from the reconstruction, or the factor.

        Args:
            inputs: The preprocessed batch, (N, C, H, W).
            data_samples: The host's; needed by ``'predict'`` alone.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.
        """
        if mode == 'predict':
            with replaced(
                self.teacher.model,
                self.tap,
                lambda output: self._reconstructed(output, inputs),
                'tap',
            ):
                return self.teacher.predict_inputs(inputs, data_samples)
        feature = self.teacher(inputs).features[self.tap]
        if mode == 'tensor':
            return self.paraphraser.encode(feature)
        reconstruction = self.paraphraser(feature)
        return dict(
            loss_rec=reconstruction_loss(reconstruction, feature, self.distance),
            relative_error=relative_error(reconstruction, feature),
        )

    def _reconstructed(self, output: Tensor, inputs: Tensor) -> Tensor:
        host, model = self.teacher.host, self.teacher.model
        feature = host.knowledge(model, {self.tap: output}, inputs).features[self.tap]
        return host.put_back(output, self.paraphraser(feature))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved, sha256 = (state_dict.get(f'{prefix}{name}') for name in ('record', 'teacher_sha256'))
        if saved is None or sha256 is None:
            raise ValueError(
                'checkpoint: expected that of a run of mmkd_plugin.ParaphraserTrainer, got one with '
                f'{", ".join(list(state_dict)[:3]) or "nothing"} …'
            )
        if not torch.equal(sha256.cpu(), self.teacher_sha256.cpu()):
            raise ValueError(
                f'{self.teacher.key}.checkpoint: expected the file that the run began with, got another, '
                f'{self.teacher.checkpoint}; put the old one back, or start a new run'
            )
        (tap, began), present = read_record(saved), self.paraphraser.arguments
        if tap != self.tap:
            raise ValueError(
                f'tap: expected {tap!r}, with which the run began, got {self.tap!r}; start a new run'
            )
        if began != present:
            raise ValueError(
                f'paraphraser: expected {began}, with which the run began, got {present}; start a new run'
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _probe(teacher: Teacher, tap: str, probe_shape: Sequence[int] | None) -> Tensor:
    """The map at the tap, of one image of zeros; from now on the teacher records it and stops there."""
    FeatureTaps(teacher.model, [tap], 'tap')  # a tap that does not exist is the fault of this key
    teacher.tap([tap], needs_scores=False)
    return teacher.probe(find_shape(teacher.model, teacher.host, probe_shape, 'teacher')).features[
        tap
    ]


def _build_paraphraser(config: Any, tap: str, feature: Tensor) -> Paraphraser:
    if feature.ndim != 4:
        raise ValueError(f'tap: expected a map (N, C, H, W) at {tap!r}, got {tuple(feature.shape)}')
    if config is not None and not isinstance(config, Mapping):
        raise ValueError(f"paraphraser: expected dict(type='Paraphraser', …), got {config!r}")
    channels = feature.shape[1]
    config = {'type': 'Paraphraser', 'in_channels': channels, **(config or {})}
    try:
        with config_key('paraphraser'):
            built = MODELS.build({**config, '_scope_': SCOPE})
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'paraphraser: expected a Paraphraser and its arguments, got {config!r}: {error}'
        ) from error
    if not isinstance(built, Paraphraser):
        raise ValueError(f"paraphraser.type: expected 'Paraphraser', got {config['type']!r}")
    if built.in_channels != channels:
        raise ValueError(
            f'paraphraser.in_channels: expected {channels} as at {tap!r}, got {built.in_channels}'
        )
    return built
