"""A teacher: loaded strictly, frozen for good, run at least cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine import ConfigDict

from mmkd_plugin.adapters import host_of
from mmkd_plugin.adapters.class_map import ClassMap
from mmkd_plugin.adapters.comparability import require_scores
from mmkd_plugin.adapters.probe import probe
from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.checkpoint import load_weights
from mmkd_plugin.outputs import Knowledge


class Teacher:
    """A frozen network that answers a batch with :class:`Knowledge`.

    It is deliberately no ``nn.Module``: a child of the distiller would be put in train mode, re-initialised by ``init_weights``,
    written into every checkpoint, wrapped by DDP and copied by EMA. It follows its input to the device.

    Args:
        model: A model dict, a config path or ``'pkg::path'``.
        checkpoint: Path or URL of its weights; loaded strictly.
        name: What logs and pictures call it.
        cfg_options: Changes to make in ``model``.
        data_preprocessor: Its input contract (mean, std, channel order, padding). Default: that of its config; the run's if it has none.
        run_preprocessor: The run's contract, for a teacher without its own.
        class_map: For each class of the student the teacher's index of it, where their classes differ.
        key: The config key, for messages.

    Raises:
        ValueError: If the config or the checkpoint is wrong; the message begins with the key.
    """

    def __init__(
        self,
        model: Any,
        checkpoint: str | None = None,
        name: str = 'teacher',
        cfg_options: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        run_preprocessor: Mapping[str, Any] | None = None,
        class_map: Sequence[int] | None = None,
        key: str = 'teacher',
    ) -> None:
        if not isinstance(checkpoint, str) or not checkpoint:
            raise ValueError(
                f'{key}.checkpoint: expected the path or URL of trained weights, got {checkpoint!r}'
            )
        self.name = name
        self.key = key
        self.checkpoint = checkpoint
        config = network_config(model, f'{key}.model', cfg_options, run_preprocessor)
        if data_preprocessor is not None:
            config.data_preprocessor = ConfigDict(data_preprocessor)
        self.model = build_network(config, f'{key}.model')
        self.sha256, self.classes = load_weights(self.model, checkpoint, f'{key}.checkpoint')
        self.model.requires_grad_(False).eval()
        self.host = host_of(self.model)
        self.class_map = ClassMap(class_map, f'{key}.class_map')
        self.needs_scores = False
        self.taps = FeatureTaps(self.model, (), key)

    def __deepcopy__(self, memo: dict[int, Any]) -> 'Teacher':
        return self  # EMA and the like copy the distiller: a frozen network need not exist twice

    def tap(self, taps: Sequence[str], needs_scores: bool) -> None:
        """Say once what every batch will be asked for.

        Raises:
            ValueError: If a tap names no module, or scores are wanted of a model that no host knows.
        """
        if needs_scores:
            require_scores(self.key, self.model, self.host)
        self.needs_scores = needs_scores
        scores = self.host.score_taps if needs_scores else ()
        self.taps = FeatureTaps(
            self.model, [*taps, *scores], f'{self.key} taps', self.host.optional_taps
        )

    def probe(self, shape: tuple[int, int, int]) -> Knowledge:
        """Its knowledge of one image of zeros, for shapes.

        Raises:
            ValueError: If it does not run on the student's input shape.
        """
        try:
            return self.class_map(probe(self.model, self.host, self.taps, shape))
        except RuntimeError as error:
            raise ValueError(
                f"{self.key}: expected a network that runs on the student's input {shape}: {error}"
            ) from error

    def norm(self, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift, (C,) each, of its normalisation layer at ``path``.

        Raises:
            ValueError: If there is no such layer.
        """
        FeatureTaps(self.model, [path], f'norm of {self.key}')  # the path exists
        layer = self.model.get_submodule(path)
        scale, shift = getattr(layer, 'weight', None), getattr(layer, 'bias', None)
        if not (
            isinstance(scale, torch.Tensor) and isinstance(shift, torch.Tensor) and scale.ndim == 1
        ):
            raise ValueError(
                f'norm of {self.key}: expected a BatchNorm layer with scale and shift, got {type(layer).__name__} at {path!r}'
            )
        return scale, shift

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, rois: Sequence[torch.Tensor] = ()) -> Knowledge:
        """Answer a batch; without scores it stops at its deepest tap.

        Args:
            inputs: As its own preprocessor would have made it, (N, C, H, W).
            rois: The regions that the student's RoI head was asked about, by stage.
        """
        if not self.taps.taps:  # no method asks for anything of it
            return Knowledge()
        self._follow(inputs.device)
        with self.taps.record(self.model, stop_early=not self.needs_scores) as features:
            self.host.run(self.model, inputs, self.needs_scores, rois)
        return self.class_map(self.host.knowledge(self.model, features, inputs))

    @torch.no_grad()
    def predict(self, data: Any, device: torch.device) -> Any:
        """Predict a raw batch as the framework's evaluator wants it: as a plain run of this very model, in the student's classes."""
        self._follow(device)
        return self._in_classes(self.model.val_step(data))  # type: ignore[operator]

    @torch.no_grad()
    def predict_inputs(self, inputs: torch.Tensor, data_samples: Any) -> Any:
        """Predict a preprocessed batch, in the student's classes."""
        self._follow(inputs.device)
        return self._in_classes(self.model(inputs, data_samples, mode='predict'))

    def _in_classes(self, predictions: Any) -> Any:
        indices = self.class_map.indices
        return predictions if indices is None else self.host.in_classes(predictions, indices)

    def _follow(self, device: torch.device) -> None:
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        if self.model.training:  # somebody reached in
            self.model.eval()


def build_teachers(configs: Any, run_preprocessor: Mapping[str, Any] | None) -> list[Teacher]:
    """Build the list under the config key ``teachers``.

    Raises:
        ValueError: If it is empty, if two share a name, or if one of them is wrong.
    """
    if not isinstance(configs, (list, tuple)) or not configs:
        raise ValueError(f'teachers: expected a list of at least one teacher, got {configs!r}')
    teachers: list[Teacher] = []
    for index, config in enumerate(configs):
        teacher = build_teacher(config, run_preprocessor, f'teachers[{index}]', f'teacher{index}')
        if teacher.name in {other.name for other in teachers}:
            raise ValueError(
                f'teachers[{index}].name: expected a name of its own, got {teacher.name!r} again'
            )
        teachers.append(teacher)
    return teachers


def build_teacher(
    config: Any, run_preprocessor: Mapping[str, Any] | None, key: str, default_name: str = 'teacher'
) -> Teacher:
    """Build one teacher from its dict.

    Raises:
        ValueError: If something is wrong with it; the message begins with the key.
    """
    if not isinstance(config, Mapping) or 'model' not in config:
        raise ValueError(f'{key}: expected dict(name=…, model=…, checkpoint=…), got {config!r}')
    known = {'name', 'model', 'checkpoint', 'cfg_options', 'data_preprocessor', 'class_map'}
    if unknown := sorted(config.keys() - known):
        raise ValueError(f'{key}: expected the keys {sorted(known)}, got also {unknown}')
    name = str(config.get('name', default_name))
    options = {key: value for key, value in config.items() if key != 'name'}
    return Teacher(**options, name=name, run_preprocessor=run_preprocessor, key=f'{key} ({name})')
