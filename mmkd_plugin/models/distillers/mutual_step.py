"""One training step of several networks: who asks whom, who learns when."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmkd_plugin.loading.checkpoint import PEER_PREFIX
from mmkd_plugin.loading.peer_entries import APART_PREFIX
from mmkd_plugin.models.distillers.connect_peers import PeerTaps
from mmkd_plugin.models.distillers.lessons import Apart, Lessons
from mmkd_plugin.models.distillers.peers import LESSONS_PREFIX, Peer
from mmkd_plugin.models.distillers.running_statistics import statistics_kept
from mmkd_plugin.models.distillers.task import labels_for, task_losses
from mmkd_plugin.outputs import Knowledge


@dataclass(frozen=True, eq=False)
class Learner:
    """A peer with all that its step needs; ``lessons`` and ``apart`` are None where there is nothing to learn so."""

    peer: Peer
    network: nn.Module
    taps: PeerTaps
    inputs: Tensor
    lessons: Lessons | None
    apart: Apart | None

    @property
    def name(self) -> str:
        return self.peer.name


class MutualStep:
    """The step on one batch.

    What a peer says to the others carries no gradient, so none crosses from peer to peer. In ``alternating`` order each learner's graph
    is freed by its own backward before the next one's is built.

    Args:
        learners: All peers, in order, with the batch as each sees it.
        data_samples: The batch's, the host's.
        task_weight: Of the peers' own losses.
        wrappers: An optimizer for every peer, and one for each that has connectors apart.
        parallel: Children of the model as they are called in several processes, by name; what is not there is called as it is.
        parse_losses: MMEngine's: from losses and facts to the total and what is logged.

    Raises:
        ValueError: If labels are needed and missing, or the data are of another task.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        data_samples: Any,
        task_weight: float,
        wrappers: OptimWrapperDict,
        parallel: Mapping[str, nn.Module],
        parse_losses: Callable[[dict[str, Any]], tuple[Tensor, dict[str, Tensor]]],
    ) -> None:
        self.learners = learners
        self.data_samples = data_samples
        self.task_weight = task_weight
        self.wrappers = wrappers
        self.parallel = parallel
        self.parse_losses = parse_losses
        self.labels = {
            learner: labels_for(
                learner.peer.key,
                learner.peer.host,
                data_samples,
                task_weight,
                learner.lessons.by_name() if learner.lessons else {},
            )
            for learner in learners
        }
        self.logged: dict[str, Tensor] = {}

    def alternating(self) -> None:
        """One peer after the other learns from what the others say with their newest weights."""
        said: dict[
            Learner, Knowledge
        ] = {}  # by every peer since it last learned, as far as somebody asked
        for learner in self.learners:
            if learner.lessons is not None:
                with self._context(learner.name):
                    said |= {
                        other: self._ask(other)
                        for other in self._others(learner)
                        if other not in said
                    }
            losses, own = self._forward(learner)
            if self._learn(learner, losses, own, said):
                said.pop(learner, None)
            else:  # its weights are still those of this forward
                said[learner] = without_gradient(own)

    def simultaneous(self) -> None:
        """All take their lessons from one forward of each, with the weights before this step."""
        forwards = {learner: self._forward(learner) for learner in self.learners}
        said = {learner: without_gradient(own) for learner, (_, own) in forwards.items()}
        for learner in self.learners:
            self._learn(learner, *forwards.pop(learner), said)

    def _others(self, learner: Learner) -> list[Learner]:
        return [other for other in self.learners if other is not learner]

    @torch.no_grad()
    def _ask(self, peer: Learner) -> Knowledge:
        """What a peer says of the batch, in its present mode, by the batch's statistics; its running ones stay as they are."""
        taps = peer.taps.asked
        if not taps.taps:
            return Knowledge()
        host, needs_scores = peer.peer.host, peer.taps.needs_scores
        with (
            statistics_kept(peer.network),
            taps.record(peer.network, stop_early=not needs_scores) as features,
        ):
            host.run(peer.network, peer.inputs, needs_scores)
        return host.knowledge(peer.network, features, peer.inputs, self.data_samples)

    def _forward(self, learner: Learner) -> tuple[dict[str, Any], Knowledge]:
        """A peer's own losses, and what it says, both with gradient."""
        called, host = self._called(PEER_PREFIX + learner.name, learner.network), learner.peer.host
        with (
            self._context(learner.name, called),
            learner.taps.all.record(learner.network) as features,
        ):
            losses = task_losses(called, host, learner.inputs, self.data_samples, self.task_weight)
        return losses, host.knowledge(learner.network, features, learner.inputs, self.data_samples)

    def _learn(
        self,
        learner: Learner,
        losses: dict[str, Any],
        own: Knowledge,
        said: Mapping[Learner, Knowledge],
    ) -> bool:
        """One update of a peer, and before it one of its connectors apart; whether the peer's weights moved."""
        if learner.lessons is not None:
            others = [said[other] for other in self._others(learner)]
            if learner.apart is not None:
                self._learn_apart(APART_PREFIX + learner.name, learner.apart, others)
            called = self._called(LESSONS_PREFIX + learner.name, learner.lessons)
            with (
                self._context(learner.name, called),
                statistics_kept(*filter(None, [learner.apart])),
            ):
                losses.update(called(own, others, self.labels[learner]))
        return self._update(learner.name, losses)

    def _learn_apart(self, name: str, apart: Apart, others: Sequence[Knowledge]) -> None:
        called = self._called(name, apart)
        with self._context(name, called):
            losses = called(others)
        self._update(name, losses)

    def _update(self, name: str, losses: dict[str, Any]) -> bool:
        """Backward and, unless gradients are still being accumulated, a step; whether it was one."""
        total, logged = self.parse_losses(losses)
        wrapper = self.wrappers[name]
        wrapper.update_params(total)
        self.logged.update({f'{name}.{key}': value.detach() for key, value in logged.items()})
        return bool(wrapper.should_update())

    def _called(self, name: str, child: nn.Module) -> nn.Module:
        return self.parallel.get(name, child)

    @contextmanager
    def _context(self, name: str, *called: nn.Module) -> Iterator[None]:
        """The learner's precision; while it accumulates gradients, no exchange of them between processes."""
        wrapper: OptimWrapper = self.wrappers[name]
        with ExitStack() as stack:
            for module in called or (nn.Identity(),):
                stack.enter_context(wrapper.optim_context(module))
            yield


def without_gradient(knowledge: Knowledge) -> Knowledge:
    """The same, detached."""
    logits = None if knowledge.logits is None else knowledge.logits.detach()
    return replace(
        knowledge,
        logits=logits,
        features={tap: value.detach() for tap, value in knowledge.features.items()},
    )
