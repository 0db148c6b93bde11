"""DETR-like detectors: class scores of queries that all networks of a run share."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.detector import DetectorAdapter, needed_arguments
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import ClassScores

#: Arguments of a decoder that make up a query.
_QUERY = ('query', 'query_pos', 'reference_points')
_FIX = 'Use methods on taps alone, or detectors whose queries are learned embeddings.'


class QueryDetectorAdapter(DetectorAdapter):
    """A detector that decodes queries: DETR, Conditional DETR, DAB-DETR, Deformable DETR.

    Each network learns queries of its own, so its outputs for them correspond to nothing in another
    network. Therefore all networks decode the queries of the first teacher, in a pass of the
    decoder beside that of the task loss. The class scores are those of its last layer.

    The pass sees the features of the training forward. In a student it draws dropout again.

    Reference:
        Wang et al., KD-DETR: Knowledge Distillation for Detection Transformer with Consistent
        Distillation Points Sampling, CVPR 2024. It samples random queries as well and distils the
        boxes and all layers; here neither is done.
    """

    watches = True

    def __init__(self, model: nn.Module) -> None:
        self._head: Any = getattr(model, 'bbox_head', None)
        super().__init__(self._head)
        self._decoded: dict[str, Any] | None = None
        self._stop = False
        self.no_scores = self.obstacle(model, 'decoder')
        if not self.no_scores and self.num_classes is None:
            self.no_scores = 'its head has no attribute num_classes'
        if not self.no_scores:
            self.queries = {}

    @property
    def scores_known(self) -> bool:
        return not self.no_scores

    def obstacle(self, model: nn.Module, path: str) -> str:
        part = path.partition('.')[0]
        if part in ('backbone', 'neck'):
            return ''
        transformer: Any = model.forward_transformer
        more = [n for n in needed_arguments(transformer) if not n.endswith('data_samples')]
        return f'it needs {", ".join(more)} beside the features of the images' if more else ''

    def run(
        self,
        model: Any,
        inputs: Any,
        scores: bool,
        rois: Sequence[Tensor] = (),
        paths: Collection[str] = (),
        data_samples: Any = None,
    ) -> None:
        parts = {path.partition('.')[0] for path in paths} - {'backbone', 'neck'}
        for part in sorted(parts):
            self.require_reach(model, part)
        features = model.extract_feat(inputs)
        if not parts and not (scores and self.scores_known):
            return
        samples = self.blank_samples(inputs) if data_samples is None else data_samples
        # The network's own queries are decoded for their taps alone.
        self._stop = self._decoded is not None and not parts & {'decoder', 'bbox_head'}
        try:
            head_inputs = model.forward_transformer(features, samples)
        except _BeforeDecoderError:
            return
        finally:
            self._stop = False
        if 'bbox_head' in parts:
            names = ('hidden_states', 'references')
            model.bbox_head(**{name: head_inputs[name] for name in names if name in head_inputs})

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Note the inputs of the decoder."""
        network: Any = model
        original = network.forward_decoder

        def note(**inputs: Any) -> Any:
            self._decoded = inputs
            if self._stop:
                raise _BeforeDecoderError
            return original(**inputs)

        self._decoded = {}
        network.forward_decoder = note
        try:
            yield
        finally:
            del network.forward_decoder

    def find_queries(self, model: nn.Module, inputs: Tensor) -> Mapping[str, Tensor]:
        """Return the learned queries of a frozen network, one row each: (1, Q, …).

        Raises:
            ConfigError: If they depend on the image.
        """
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(inputs.shape, generator=generator).to(inputs)
        found = []
        for images in (inputs, noise):
            with torch.no_grad(), self.watch(model):
                self.run(model, images, scores=True)
            assert self._decoded is not None
            found.append({name: self._decoded[name] for name in _QUERY if name in self._decoded})
            self._decoded = None
        for name, one in found[0].items():
            if not torch.equal(one, found[1][name]):
                raise ConfigError(
                    '',
                    f'class scores of {type(model).__name__} are not supported: its queries '
                    f'({name}) depend on the image, so other networks cannot decode them',
                    _FIX,
                )
        return {name: one[:1].detach().clone() for name, one in found[0].items()}

    def class_scores(
        self,
        model: Any,
        found: Mapping[str, list[Tensor]],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> ClassScores | None:
        decoded, self._decoded = self._decoded, None
        if not decoded or not self.queries:
            raise ConfigError('', 'the decoder does not run in this forward', _FIX)
        own = {name: decoded[name] for name in _QUERY if name in decoded}
        if {name: one.shape[2:] for name, one in own.items()} != {
            name: one.shape[2:] for name, one in self.queries.items()
        }:
            shapes = {name: tuple(one.shape[1:]) for name, one in self.queries.items()}
            raise ConfigError(
                '',
                f'must decode the queries of the first teacher, {shapes} (queries, channels)',
                'Use methods on taps alone, or a detector of the same family and width.',
                found={name: tuple(one.shape[1:]) for name, one in own.items()},
            )
        shared = {
            name: one.to(own[name]).expand(len(inputs), *one.shape[1:])
            for name, one in self.queries.items()
        }
        outputs = model.forward_decoder(**{**decoded, **shared})
        logits = model.bbox_head.forward(**outputs)[0][-1]
        sigmoid = getattr(self._head.loss_cls, 'use_sigmoid', False)
        return ClassScores(
            logits,
            'sigmoid' if sigmoid else 'softmax',
            background=logits.shape[-1] > self._head.num_classes,
            queries=logits.shape[1],
        )


class _BeforeDecoderError(Exception):
    """Leaves a forward whose queries are not needed."""
