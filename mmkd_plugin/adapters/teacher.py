"""A teacher: frozen, strictly loaded, in eval mode, and outside the student's module tree."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from mmengine import ConfigDict
from torch import nn

from mmkd_plugin.adapters.compat import ClassMap
from mmkd_plugin.adapters.frozen_network import FrozenNetwork
from mmkd_plugin.adapters.head_continuation import HeadContinuation
from mmkd_plugin.adapters.probe import TeacherProbe, probe_network
from mmkd_plugin.boxes import Levels
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.checkpoint import load_weights
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.views.batches import resized, view_of
from mmkd_plugin.views.settings import View


class Teacher(FrozenNetwork):
    """A frozen network.

    It is deliberately no ``nn.Module``. A child of the distiller would be put in train mode,
    re-initialised by ``init_weights``, written into every checkpoint, wrapped by DDP and copied by
    EMA. A teacher follows its input to the device.

    Args:
        model: A model dict, a config path or ``'pkg::path'``.
        checkpoint: Path or URL of its weights, which must restore it completely.
        name: Its name in logs and pictures.
        cfg_options: Changes to make in ``model``.
        data_preprocessor: Its input preprocessing (mean, std, channel order, padding). Default:
            that of its config, or else that of the run.
        run_preprocessor: Preprocessing of the run, for a teacher without its own.
        class_map: For each class of the student the teacher's index of it, if they differ.
        key: The config key, for messages.
        checkpoint_key: Place of its weights in a file that holds several, such as ``'ema'``.
        checkpoint_prefix: Prefix of its keys in a file of several networks, such as
            ``'architecture.'``.
        view: The view of the sample that it receives, if that is not the student's.
        standardize: Number of batches over which its tapped tensors are measured, to have mean 0
            and variance 1 a channel; None leaves them as they are.
        cost: How it runs: the other arguments of
            :class:`~mmkd_plugin.adapters.frozen_network.FrozenNetwork`.

    Raises:
        ConfigError: If the config or the checkpoint is wrong.
    """

    marks_padding = False  # it is read from the student's scores
    #: Whether its outputs are read from a store, where they are stored.
    replayed = False
    #: Whether all outputs come from a store, and there is no network.
    stored = False
    view: View | None
    standardize: int | None

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
        checkpoint_key: str | None = None,
        checkpoint_prefix: str | None = None,
        view: View | None = None,
        standardize: int | None = None,
        **cost: Any,
    ) -> None:
        if not isinstance(checkpoint, str) or not checkpoint:
            raise ConfigError(
                f'{key}.checkpoint',
                'must be the path or URL of trained weights',
                found=checkpoint,
            )
        config = network_config(model, f'{key}.model', cfg_options, run_preprocessor)
        if data_preprocessor is not None:
            config.data_preprocessor = ConfigDict(data_preprocessor)
        with torch.random.fork_rng(devices=[]):  # connectors draw the same with a stored teacher
            network = build_network(config, f'{key}.model')
        self.sha256, self.classes = load_weights(
            network, checkpoint, f'{key}.checkpoint', checkpoint_key, checkpoint_prefix
        )
        network.requires_grad_(False)
        network.eval()  # a host's own train() may return nothing
        super().__init__(network, key, name, ClassMap(class_map, f'{key}.class_map'), **cost)
        self.checkpoint = checkpoint
        self.view, self.standardize = view, standardize

    def __deepcopy__(self, memo: dict[int, Any]) -> 'Teacher':
        return self  # EMA copies the distiller: a frozen network need not exist twice

    @property
    def data_preprocessor(self) -> nn.Module:
        """Its input preprocessing."""
        return cast(nn.Module, self.model.data_preprocessor)

    def probe(self, shape: tuple[int, int, int]) -> TeacherProbe:
        """Run once on a blank image.

        Raises:
            ConfigError: If the network does not accept the shape.
        """
        output = self.class_map(probe_network(self, shape))
        self.find_fast_form(shape)
        return TeacherProbe(
            self.key,
            output,
            self.model,
            self.sha256,
            self.checkpoint,
            size=shape[1:],
            continues=partial(HeadContinuation, self, shape),
        )

    def own_output(
        self, inputs: torch.Tensor, data_samples: Any, levels: Levels | None = None
    ) -> NetworkOutput:
        """Return the outputs for a batch in its own classes; ``levels`` matter to a store."""
        return self.computed(inputs, (), data_samples)

    @torch.no_grad()
    def predict(self, data: Any, device: torch.device) -> Any:
        """Predict a raw batch, as the evaluator of a plain run of this model would see it."""
        self._follow(device)
        with self.placed(device):
            if self.view is not None:
                return self._in_classes(self._predict_view(data, self.view))
            return self._in_classes(self.model.val_step(data))  # type: ignore[operator]

    @torch.no_grad()
    def predict_inputs(self, inputs: torch.Tensor, data_samples: Any) -> Any:
        """Predict a preprocessed batch."""
        self._follow(inputs.device)
        with self.placed(inputs.device):
            return self._in_classes(self.model(inputs, data_samples, mode='predict'))

    def _predict_view(self, data: Any, view: View) -> Any:
        if view.size is None:
            raw = view_of(data, self.name, self.key, 'val_dataloader')
            return self.model.val_step(raw)  # type: ignore[operator]
        if self.adapter.task == 'detection':
            raise ConfigError(
                f'{self.key}.view.size',
                'must not resize the images of a detector that is evaluated: its boxes would be '
                'those of other images',
                'Leave EvaluateTeachers out, or give a view with a pipeline.',
                found=view.size,
            )
        batch = self.data_preprocessor(data, False)
        images = resized(batch['inputs'], view.size)
        return self.model(images, batch.get('data_samples'), mode='predict')

    def _in_classes(self, predictions: Any) -> Any:
        indices = self.class_map.indices
        return predictions if indices is None else self.adapter.in_classes(predictions, indices)
