"""Stage 1 of IE-KD: a paraphraser learns to reconstruct one map of a frozen teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor

from mmkd_plugin.adapters.build_teachers import build_teacher
from mmkd_plugin.adapters.maps import as_maps, from_map
from mmkd_plugin.adapters.probe import find_shape
from mmkd_plugin.adapters.replaced import replaced
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import ConfigError, no_nan, one_of
from mmkd_plugin.loading.run_record import RunRecord
from mmkd_plugin.models.connectors import Paraphraser
from mmkd_plugin.models.losses import reconstruction_loss, relative_error
from mmkd_plugin.registry import MODELS, build_part


@MODELS.register_module()
class ParaphraserTrainer(BaseModel):
    r"""Train a paraphraser R on a map f of a teacher, as an ordinary run: stage 1 of IE-KD.

    .. math:: L_{rec} = \lVert f - R(f) \rVert

    Training needs no labels, and runs the teacher no further than the tap. It logs ``loss_rec`` and
    ``relative_error``, :math:`\lVert R(f) - f \rVert_2 / \lVert f \rVert_2` over the batch.
    Predictions are the teacher's when the layers behind the tap receive R(f), so the run's own
    evaluator measures what the reconstruction costs in accuracy. The checkpoint holds the
    paraphraser alone, with a record of its arguments, the tap and the teacher's file.

    Args:
        teacher: ``dict(name=…, model=…, checkpoint=…)``; see
            :class:`~mmkd_plugin.adapters.Teacher` for the other keys. Batches are made by its own
            preprocessing.
        tap: The map of the teacher, such as ``'backbone.layer3'``; one tap a run.
        paraphraser: ``dict(type='Paraphraser', factor_rate=0.5, …)``; ``in_channels`` is inferred,
            and checked if it is stated.
        distance: ``'l1'`` as in the authors' code, or ``'l2'`` as in the paper; see
            :func:`~mmkd_plugin.models.losses.reconstruction_loss`.
        data_preprocessor: Preprocessing of the run, for a teacher without its own.
        probe_shape: (channels, height, width) of an input that the teacher accepts, if the usual
            ones do not fit.
        init_cfg: As in every MMEngine model.

    Raises:
        ConfigError: If anything in the config does not fit.

    Reference:
        Kim et al., Paraphrasing Complex Network, NeurIPS 2018, eq. 1; Huang et al., Revisiting
        Knowledge Distillation, CVPR 2021.
    """

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
        if isinstance(teacher, Mapping) and teacher.get('replay') is not None:
            raise ConfigError(
                'teacher.replay',
                'is for the teachers of a Distiller',
                'Leave it out: the paraphraser trains on features of new images.',
                found=teacher['replay'],
            )
        for name in ('view', 'standardize'):
            if isinstance(teacher, Mapping) and teacher.get(name) is not None:
                raise ConfigError(
                    f'teacher.{name}',
                    'is for the teachers of a Distiller',
                    'Leave it out: the paraphraser trains on the images of its data set.',
                    found=teacher[name],
                )
        frozen = build_teacher(teacher, data_preprocessor, 'teacher')
        super().__init__(frozen.data_preprocessor, init_cfg)
        self.teacher = frozen
        self.tap = tap
        self.distance = distance
        self.paraphraser = _build_paraphraser(paraphraser, tap, _probe(frozen, tap, probe_shape))
        self.record = RunRecord(
            dict(
                tap=tap,
                paraphraser=self.paraphraser.arguments,
                teacher=dict(name=frozen.name, sha256=frozen.sha256),
            ),
            'Put the value of the first run back, or start a new run.',
            may_differ=['name'],
        )

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Return losses, predictions from the reconstruction, or the factor.

        Args:
            inputs: The preprocessed batch, (N, C, H, W).
            data_samples: The framework's; only ``'predict'`` needs them.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.
        """
        if mode == 'predict':
            with replaced(
                self.teacher.model,
                self.tap,
                lambda output: self._reconstruct(output, inputs),
                'tap',
            ):
                return self.teacher.predict_inputs(inputs, data_samples)
        feature = self.teacher.observe(inputs).feature(self.tap)
        if mode == 'tensor':
            return self.paraphraser.encode(feature)
        reconstruction = self.paraphraser(feature)
        return dict(
            loss_rec=reconstruction_loss(reconstruction, feature, self.distance),
            relative_error=relative_error(reconstruction, feature),
        )

    def _reconstruct(self, output: Tensor, inputs: Tensor) -> Tensor:
        feature = as_maps(self.teacher, {self.tap: output}, inputs)[self.tap]
        return from_map(self.teacher, self.tap, self.paraphraser(feature), output)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f'{prefix}record.began' not in state_dict:
            keys = ', '.join(list(state_dict)[:3]) or 'nothing'
            raise ConfigError(
                'checkpoint',
                'is not of a run of mmkd_plugin.ParaphraserTrainer of this version',
                'Train the paraphraser again.',
                found=keys,
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _probe(teacher: Teacher, tap: str, probe_shape: Sequence[int] | None) -> Tensor:
    """Return the map at the tap for a blank image; the teacher records it from now on."""
    teacher.parse([tap], 'tap')
    teacher.request([tap])
    return teacher.probe(find_shape(teacher, probe_shape)).feature(tap)


def _build_paraphraser(config: Any, tap: str, feature: Tensor) -> Paraphraser:
    if feature.ndim != 4:
        shape = tuple(feature.shape)
        raise ConfigError(
            'tap', f'must tap a map (N, C, H, W), but {tap!r} has the shape', found=shape
        )
    channels = feature.shape[1]
    built = build_part(
        config, Paraphraser, 'paraphraser', default='Paraphraser', in_channels=channels
    )
    if built.in_channels != channels:
        raise ConfigError(
            'paraphraser.in_channels', f'must be {channels}, as at {tap!r}', found=built.in_channels
        )
    return built
