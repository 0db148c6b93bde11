"""Several networks that learn from each other."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError, no_nan, non_negative_number, one_of
from mmkd_plugin.loading.peer_entries import ENSEMBLE, peer_entries
from mmkd_plugin.loading.run_record import RunRecord
from mmkd_plugin.models.distillers.binding import Learner, bind
from mmkd_plugin.models.distillers.first_batch import check_labels
from mmkd_plugin.models.distillers.mutual_step import (
    AUXILIARY_PREFIX,
    Step,
    step_alternating,
    step_simultaneous,
)
from mmkd_plugin.models.distillers.peer import Peer, build_peers
from mmkd_plugin.models.distillers.student_state import hold_peers
from mmkd_plugin.models.distillers.teacher_inputs import share_inputs
from mmkd_plugin.registry import MODELS

ORDERS = {'alternating': step_alternating, 'simultaneous': step_simultaneous}


@MODELS.register_module()
class MutualDistiller(BaseModel):
    """Train two or more stock models at once: each is the student of the others.

    Every peer has its own instance of every method, with itself as student and the others, in
    order, as teachers. Losses are logged as ``<peer>.task.<name>`` and ``<peer>.<method>.<name>``.
    ``<peer>.loss`` is the total of a peer, ``loss`` the sum of all.

    Args:
        peers: A config path, a model dict, or ``dict(name=…, model=…)`` each, with ``checkpoint``
            (weights to begin with), ``cfg_options``, ``data_preprocessor``, and ``methods``:
            changes to the methods of this peer, such as ``dict(ie=dict(pairs=[…]))``.
        methods: Methods by name, such as ``dict(dml=dict(type='SoftTarget', temperature=1.0))``.
        order: ``'alternating'``: one peer after the other is updated, by the outputs of the others'
            newest weights; ``'simultaneous'``: all are updated by one forward of each.
        task_weight: Weight of the peers' own losses.
        predict: Name of the peer that predicts (the first by default), or ``'ensemble'``: the mean
            of the peers' probabilities.
        data_preprocessor: Preprocessing of the run; for peers that have none.
        probe_shape: (channels, height, width) of an input that the peers accept, if the usual ones
            do not fit.
        init_cfg: As in every MMEngine model.

    Raises:
        ConfigError: If anything in the config does not fit.

    Reference:
        Zhang et al., Deep Mutual Learning, CVPR 2018 (``SoftTarget``); Huang et al., Revisiting
        Knowledge Distillation: An Inheritance and Exploration Framework, CVPR 2021, section 3.4
        (``IEKD``).
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
        given = dict(peers=peers, methods=methods, data_preprocessor=data_preprocessor)
        for key, config in given.items():
            no_nan(key, config)
        task_weight = non_negative_number('task_weight', task_weight)
        entries = peer_entries(peers)
        built = build_peers(entries, methods, task_weight, copy.deepcopy(data_preprocessor))
        super().__init__(getattr(built[0].network, 'data_preprocessor', None), init_cfg)
        self.order = one_of('order', order, ORDERS)
        self.task_weight = task_weight
        self.names = [peer.name for peer in built]
        self.predict = one_of('predict', predict or self.names[0], [*self.names, ENSEMBLE])
        self.can_average = all(peer.tapped.adapter.can_average for peer in built)
        if self.predict == ENSEMBLE and not self.can_average:
            raise ConfigError(
                'predict',
                f'must be one of {self.names}: predictions of these models cannot be averaged',
                found=predict,
            )
        with torch.random.fork_rng(devices=[]):  # the first peer draws as in a plain run
            learners = [
                Learner(
                    peer.tapped,
                    dict(peer.methods.named()),
                    [other.tapped for other in built if other is not peer],
                )
                for peer in built
            ]
            for peer, requests in zip(built, bind(learners, probe_shape), strict=True):
                peer.finish(requests)
        self.peers = nn.ModuleDict({peer.name: peer for peer in built})
        self.record = RunRecord(
            {'peers': ', '.join(sorted(self.names))},  # their order may change
            'To go on with other peers, start a new run: set the checkpoint of each peer to its '
            'exported network.',
        )
        preprocessors = [cast(nn.Module, peer.network.data_preprocessor) for peer in built]
        shared = share_inputs(self.data_preprocessor, preprocessors)
        self.data_preprocessor, self._input_of = shared
        self._checked = False
        hold_peers(self)

    def init_weights(self) -> None:
        """Initialise all peers; the first draws as in a plain run, the others from a fork."""
        first = self.network(self.names[0])
        if not first.is_init:
            first.init_weights()
        cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(cuda):
            for name in self.names[1:]:
                network = self.network(name)
                if not network.is_init:
                    network.init_weights()
            super().init_weights()

    def all_peers(self) -> list[Peer]:
        """Return the peers, in order."""
        return [cast(Peer, peer) for peer in self.peers.values()]

    def network(self, name: str) -> Any:
        """Return the network of a peer, as its framework knows it."""
        return self.peers[name].network

    def trained_together(self) -> dict[str, nn.Module]:
        """Return what one optimizer trains, by the optimizer's name.

        There is one for each peer and its methods, and one for its auxiliary modules.
        """
        parts: dict[str, nn.Module] = {}
        for peer in self.all_peers():
            parts[peer.name] = peer.trained_together()
            if peer.auxiliary:
                parts[AUXILIARY_PREFIX + peer.name] = peer.auxiliary
        return parts

    def train_step(
        self,
        data: Any,
        optim_wrapper: OptimWrapper,
        parallel: Mapping[nn.Module, nn.Module] | None = None,
    ) -> dict[str, Tensor]:
        """Update every peer once, from a raw batch.

        Args:
            data: From the data loader.
            optim_wrapper: One for every key of :meth:`trained_together`.
            parallel: DDP wrappers by the module that they wrap.

        Returns:
            Values to log.

        Raises:
            ConfigError: If the optimizers are others, or the batch lacks labels that are needed.
        """
        batch = self.data_preprocessor(data, True)
        if not self._checked:
            self._check(optim_wrapper, batch.get('data_samples'))
        inputs = [
            batch['inputs'] if n is None else batch['teacher_inputs'][n] for n in self._input_of
        ]
        step = Step(
            self.all_peers(),
            inputs,
            batch.get('data_samples'),
            self.task_weight,
            cast(OptimWrapperDict, optim_wrapper),
            parallel or {},
            self.parse_losses,
        )
        ORDERS[self.order](step)
        totals = [step.logged[f'{name}.loss'] for name in step.wrappers.keys()]  # noqa: SIM118  it is no dict
        return {'loss': torch.stack(totals).sum(), **step.logged}

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Run the peer that predicts.

        Raises:
            ConfigError: In ``'loss'``, because several networks are updated in :meth:`train_step`
                alone; and for ``predict='ensemble'``, which has no single forward.
        """
        if mode == 'loss':
            raise ConfigError(
                'model_wrapper_cfg',
                'this wrapper calls the model for one loss, but several networks are updated in '
                'train_step',
                "Set model_wrapper_cfg=dict(type='mmkd_plugin.PeerDataParallel').",
            )
        if self.predict == ENSEMBLE:
            raise ConfigError(
                'predict',
                f'must be one of {self.names} for a bare forward',
                'val_step and test_step give the predictions of the ensemble.',
                found=ENSEMBLE,
            )
        return self.network(self.predict)(inputs, data_samples, mode=mode)

    def val_step(self, data: Any) -> Any:
        """Return the predictions of the named peer, or of the ensemble, for a raw batch."""
        if self.predict == ENSEMBLE:
            return self.predictions(data)[ENSEMBLE]
        return self.network(self.predict).val_step(data)

    test_step = val_step

    def predictions(self, data: Any) -> dict[str, Any]:
        """Return every peer's predictions of a raw batch, and under ``'ensemble'`` their mean.

        Every network gets a copy of the batch: frameworks write predictions into it.
        """
        found = {name: self.network(name).val_step(copy.deepcopy(data)) for name in self.names}
        if self.can_average:
            adapter = self.all_peers()[0].tapped.adapter
            found[ENSEMBLE] = adapter.average(list(found.values()))
        return found

    def _check(self, optim_wrapper: Any, data_samples: Any) -> None:
        """Check what the first step shows of all of them."""
        wanted = list(self.trained_together())
        is_dict = isinstance(optim_wrapper, OptimWrapperDict)
        if not is_dict or set(optim_wrapper.keys()) != set(wanted):
            found = list(optim_wrapper.keys()) if is_dict else type(optim_wrapper).__name__
            raise ConfigError(
                'optim_wrapper',
                f'must be one optimizer for each of {wanted}',
                "Write optim_wrapper=dict(constructor='mmkd_plugin.PeerOptimWrappers', "
                'optimizer=dict(…)), which makes them of one config.',
                found=found,
            )
        for peer in self.all_peers():
            check_labels(peer.tapped, data_samples, self.task_weight, peer.requests)
        self._checked = True
