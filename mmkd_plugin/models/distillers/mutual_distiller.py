"""Several networks that teach each other."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmkd_plugin.errors import no_nan, non_negative_number, one_of
from mmkd_plugin.loading.checkpoint import PEER_PREFIX
from mmkd_plugin.loading.peer_entries import APART_PREFIX, ENSEMBLE, peer_entries
from mmkd_plugin.models.distillers.connect_peers import connect_peers
from mmkd_plugin.models.distillers.lessons import Apart, Lessons
from mmkd_plugin.models.distillers.mutual_step import Learner, MutualStep
from mmkd_plugin.models.distillers.peer_answers import answers
from mmkd_plugin.models.distillers.peer_methods import methods_of_peers
from mmkd_plugin.models.distillers.peers import LESSONS_PREFIX, build_peers, require_same_peers
from mmkd_plugin.models.distillers.teacher_inputs import share_inputs
from mmkd_plugin.registry import MODELS

ORDERS = ('alternating', 'simultaneous')


@MODELS.register_module()
class MutualDistiller(BaseModel):
    """Train two or more stock models at once: each is the student of the others.

    Every peer has its own instance of every method, bound with itself as student and the others, in order, as teachers. Losses are
    logged as ``<peer>.task.<name>`` and ``<peer>.<method>.<name>``; ``<peer>.loss`` is what the peer learns by, ``loss`` the sum of all.

    Args:
        peers: A config path, a model dict, or ``dict(name=…, model=…)`` each, with ``checkpoint`` (begin from these weights),
            ``cfg_options``, ``data_preprocessor``, and ``methods``: what changes in the methods for this peer as learner, e.g.
            ``dict(ie=dict(pairs=[…]))``.
        methods: Methods by name, e.g. ``dict(dml=dict(type='SoftTarget', temperature=1.0))``.
        order: ``'alternating'``: one peer after the other learns, from what the others say with their newest weights;
            ``'simultaneous'``: all learn from one forward of each.
        task_weight: Of the peers' own losses.
        predict: The peer that predicts, by name (the first by default), or ``'ensemble'``: the mean of their probabilities.
        data_preprocessor: The run's; for peers that have none.
        probe_shape: (channels, height, width) of an input that the peers accept, if the usual ones do not fit.
        init_cfg: As in every MMEngine model.

    Raises:
        ValueError: If anything in the config does not fit; the message begins with the key.

    Source: Zhang et al., Deep Mutual Learning, CVPR 2018 (``SoftTarget``); Huang et al., Revisiting Knowledge Distillation: An
    Inheritance and Exploration Framework, CVPR 2021, section 3.4 (``IEKD``).
    """

    data_preprocessor: nn.Module

    def __init__(
        self,
        peers: Sequence[Any],
        methods: Mapping[str, Mapping[str, Any]],
        order: str = 'alternating',
        task_weight: float = 1.0,
        predict: str | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        probe_shape: Sequence[int] | None = None,
        init_cfg: Any = None,
    ) -> None:
        for key, config in dict(
            peers=peers, methods=methods, data_preprocessor=data_preprocessor
        ).items():
            no_nan(key, config)
        built = build_peers(peer_entries(peers), copy.deepcopy(data_preprocessor))
        networks = [network for _, network in built]
        super().__init__(getattr(networks[0], 'data_preprocessor', None), init_cfg)
        self.peers = [peer for peer, _ in built]
        self.order = one_of('order', order, ORDERS)
        self.task_weight = non_negative_number('task_weight', task_weight)
        self.predict = one_of('predict', predict or self.names[0], [*self.names, ENSEMBLE])
        if self.predict == ENSEMBLE and not self.can_average:
            raise ValueError(
                f"predict: expected one of {self.names}, got 'ensemble' of models whose answers have no mean"
            )
        with torch.random.fork_rng(
            devices=[]
        ):  # the first peer's random numbers are those of a plain run
            own = methods_of_peers(methods, self.peers, self.task_weight)
            self.taps = connect_peers(
                self.peers, networks, {name: dict(made) for name, made in own.items()}, probe_shape
            )
        for name, network in zip(self.names, networks, strict=True):
            self.add_module(PEER_PREFIX + name, network)
        # Direct children, called as modules: in several processes each is synchronised on its own.
        for name, made in own.items():
            if made:
                self.add_module(LESSONS_PREFIX + name, Lessons(nn.ModuleDict(made)))
            apart = {method: one.apart for method, one in made.items() if one.apart is not None}
            if apart:
                self.add_module(APART_PREFIX + name, Apart(apart))
        contracts = [cast(nn.Module, network.data_preprocessor) for network in networks]
        self.data_preprocessor, self._input_of = share_inputs(self.data_preprocessor, contracts)

    @property
    def names(self) -> list[str]:
        """The peers', in order."""
        return [peer.name for peer in self.peers]

    @property
    def can_average(self) -> bool:
        """Whether the peers' predictions have a mean."""
        return all(peer.host.can_average for peer in self.peers)

    def init_weights(self) -> None:
        """The first peer draws the random numbers of a plain run of its config, as its training will; the others draw theirs aside."""
        first = self.network(self.names[0])
        if not first.is_init:
            first.init_weights()
        with torch.random.fork_rng(
            [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        ):
            super().init_weights()

    def network(self, name: str) -> Any:
        """A peer, as its framework knows it."""
        return getattr(self, PEER_PREFIX + name)

    def trained_together(self) -> dict[str, list[nn.Module]]:
        """What one optimizer trains, by its name: a peer and its lessons; its connectors apart."""
        parts: dict[str, list[nn.Module]] = {}
        for name in self.names:
            lessons, apart = (
                getattr(self, LESSONS_PREFIX + name, None),
                getattr(self, APART_PREFIX + name, None),
            )
            parts[name] = [self.network(name), *([lessons] if lessons is not None else [])]
            if apart is not None:
                parts[APART_PREFIX + name] = [apart]
        return parts

    def train_step(
        self,
        data: Any,
        optim_wrapper: OptimWrapper,
        parallel: Mapping[str, nn.Module] | None = None,
    ) -> dict[str, Tensor]:
        """Every peer learns once from a raw batch.

        Args:
            data: From the data loader.
            optim_wrapper: One for every key of :meth:`trained_together`.
            parallel: Children as they are called in several processes, by name.

        Returns:
            What is logged.

        Raises:
            ValueError: If there is one optimizer for all, or the batch lacks labels that are needed.
        """
        wanted = list(self.trained_together())
        if not isinstance(optim_wrapper, OptimWrapperDict) or set(optim_wrapper.keys()) != set(
            wanted
        ):
            found = (
                list(optim_wrapper.keys())
                if isinstance(optim_wrapper, OptimWrapperDict)
                else type(optim_wrapper).__name__
            )
            raise ValueError(
                f'optim_wrapper: expected an optimizer for each of {wanted}, got {found}; write '
                "optim_wrapper=dict(constructor='mmkd_plugin.PeerOptimWrappers', optimizer=dict(…)), which makes them of one config"
            )
        batch = self.data_preprocessor(data, True)
        step = MutualStep(
            self._learners(batch),
            batch.get('data_samples'),
            self.task_weight,
            optim_wrapper,
            parallel or {},
            self.parse_losses,
        )
        (step.alternating if self.order == 'alternating' else step.simultaneous)()
        return {
            'loss': torch.stack([step.logged[f'{name}.loss'] for name in wanted]).sum(),
            **step.logged,
        }

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """As the peer that predicts; of the ensemble only :meth:`val_step` and :meth:`test_step` know.

        Raises:
            ValueError: In ``'loss'``: several networks with several optimizers learn in :meth:`train_step` alone.
        """
        if mode == 'loss':
            raise ValueError(
                "model_wrapper_cfg: expected dict(type='mmkd_plugin.PeerDataParallel') in several processes, got a wrapper that "
                "asks for one loss: several networks learn in the model's train_step"
            )
        if self.predict == ENSEMBLE:
            raise ValueError(
                f"predict: expected one of {self.names} for a bare forward, got 'ensemble'"
            )
        return self.network(self.predict)(inputs, data_samples, mode=mode)

    def val_step(self, data: Any) -> Any:
        """What the named peer, or the ensemble, predicts of a raw batch."""
        return (
            self.answers(data)[ENSEMBLE]
            if self.predict == ENSEMBLE
            else self.network(self.predict).val_step(data)
        )

    test_step = val_step

    def answers(self, data: Any) -> dict[str, Any]:
        """What every peer predicts of a raw batch, by name, and under ``'ensemble'`` the mean, where there is one."""
        networks = {name: self.network(name) for name in self.names}
        return answers(networks, {peer.name: peer.host for peer in self.peers}, data)

    def _learners(self, batch: Mapping[str, Any]) -> list[Learner]:
        inputs = [
            batch['inputs'] if index is None else batch['teacher_inputs'][index]
            for index in self._input_of
        ]
        return [
            Learner(
                peer,
                self.network(peer.name),
                self.taps[peer.name],
                seen,
                getattr(self, LESSONS_PREFIX + peer.name, None),
                getattr(self, APART_PREFIX + peer.name, None),
            )
            for peer, seen in zip(self.peers, inputs, strict=True)
        ]

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        require_same_peers(
            [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)],
            self.names,
        )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
