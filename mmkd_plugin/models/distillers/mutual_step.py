"""One training step of several networks that learn from each other, in two orders."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmkd_plugin.models.distillers.distiller import batch_labels, task_losses, with_objects
from mmkd_plugin.models.distillers.first_batch import Batch, check_losses, check_outputs
from mmkd_plugin.models.distillers.peer import Peer, frozen_bn_statistics
from mmkd_plugin.outputs import NetworkOutput

AUXILIARY_PREFIX = 'auxiliary_'
Outputs = dict[Peer, NetworkOutput]


@dataclass(frozen=True)
class Step:
    """The state that both orders share in one step.

    Args:
        peers: All peers, in order.
        inputs: The batch as each peer receives it, in the same order.
        data_samples: The framework's.
        task_weight: Weight of the peers' own losses.
        wrappers: An optimizer for every peer, and one for each that has auxiliary modules.
        parallel: DDP wrappers by the module that they wrap; other modules are called directly.
        parse_losses: MMEngine's: from losses and metrics to the total and what is logged.
        logged: Values to log, filled by the step.
    """

    peers: Sequence[Peer]
    inputs: Sequence[Tensor]
    data_samples: Any
    task_weight: float
    wrappers: OptimWrapperDict
    parallel: Mapping[nn.Module, nn.Module]
    parse_losses: Callable[[dict[str, Any]], tuple[Tensor, dict[str, Tensor]]]
    logged: dict[str, Tensor] = field(default_factory=dict)

    def others(self, peer: Peer) -> list[Peer]:
        """Return the teachers of a peer, in order."""
        return [other for other in self.peers if other is not peer]

    def input_of(self, peer: Peer) -> Tensor:
        """Return the batch under the peer's preprocessing."""
        return self.inputs[self.peers.index(peer)]


def step_alternating(step: Step) -> None:
    """Update one peer after the other, each by the outputs of the others' newest weights.

    A peer's graph is freed by its own backward before the next one's is built. Outputs for other
    peers carry no gradient.
    """
    fresh: Outputs = {}  # outputs of every peer with its present weights, as far as requested
    for peer in step.peers:
        if peer.methods:
            with _context(step, peer.name):
                for other in step.others(peer):
                    if other not in fresh:
                        fresh[other] = other.observe(step.input_of(other), step.data_samples)
        losses, own = _forward(step, peer)
        if _learn(step, peer, losses, own, fresh):
            fresh.pop(peer, None)
        else:  # gradients are being accumulated: its weights are still those of this forward
            fresh[peer] = own.detach()


def step_simultaneous(step: Step) -> None:
    """Update all peers by one forward of each, with the weights before this step."""
    forwards = {peer: _forward(step, peer) for peer in step.peers}
    outputs = {peer: own.detach() for peer, (_, own) in forwards.items()}
    for peer in step.peers:
        _learn(step, peer, *forwards.pop(peer), outputs)


def _forward(step: Step, peer: Peer) -> tuple[dict[str, Any], NetworkOutput]:
    """Return a peer's own losses and its outputs, both with gradient."""
    network = step.parallel.get(peer.network, peer.network)
    inputs, samples = step.input_of(peer), step.data_samples
    with (
        _context(step, peer.name, network),
        peer.tapped.recording(inputs, samples) as recording,
    ):
        losses = task_losses(network, peer.tapped, inputs, samples, step.task_weight)
    return losses, recording.output


def _learn(
    step: Step, peer: Peer, losses: dict[str, Any], own: NetworkOutput, outputs: Outputs
) -> bool:
    """Update a peer, and before it its auxiliary modules; return whether its weights changed."""
    if peer.methods:
        others = [outputs[other] for other in step.others(peer)]
        if peer.auxiliary:
            name = AUXILIARY_PREFIX + peer.name
            auxiliary = step.parallel.get(peer.auxiliary, peer.auxiliary)
            with _context(step, name, auxiliary):
                auxiliary_losses = auxiliary(others)
            _update(step, name, auxiliary_losses)
        labels = batch_labels(peer.tapped.adapter, step.data_samples, peer.requests)
        teachers = {other.key: outputs[other] for other in step.others(peer)}
        inputs = step.input_of(peer)
        own = with_objects(own, peer.tapped.adapter, inputs, step.data_samples, peer.requests)
        batch = Batch(inputs, step.data_samples, own, teachers, frozen=False)
        if not peer.checked:  # what the first batch shows holds for all of them
            check_outputs(peer.tapped, batch)
        methods = step.parallel.get(peer.methods, peer.methods)
        with _context(step, peer.name, methods), frozen_bn_statistics(peer.auxiliary):
            distilled = methods(own, others, labels)
        if not peer.checked:
            named = {name: one for name, one in peer.methods.named() if peer.methods.works(name)}
            requests = {name: peer.requests[name] for name in named}
            check_losses(peer.tapped, named, requests, batch, distilled)
            peer.checked = len(named) == len(peer.methods)  # the others when they work
        losses.update(distilled)
    return _update(step, peer.name, losses)


def _update(step: Step, name: str, losses: dict[str, Any]) -> bool:
    """Run the backward pass and, unless gradients are accumulated, the optimizer."""
    total, logged = step.parse_losses(losses)
    wrapper = step.wrappers[name]
    wrapper.update_params(total)
    step.logged.update({f'{name}.{key}': value.detach() for key, value in logged.items()})
    return bool(wrapper.should_update())


@contextmanager
def _context(step: Step, name: str, *called: nn.Module) -> Iterator[None]:
    """Enter a peer's precision; DDP exchanges no gradients while they are accumulated."""
    wrapper: OptimWrapper = step.wrappers[name]
    with ExitStack() as stack:
        for module in called or (nn.Identity(),):  # an Identity: nothing to synchronise
            stack.enter_context(wrapper.optim_context(module))
        yield
