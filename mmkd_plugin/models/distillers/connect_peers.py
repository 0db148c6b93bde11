"""Before training: every peer is tapped for what it learns by and for what the others ask of it, and its methods see the shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from mmkd_plugin.adapters.comparability import require_comparable, require_same_task, require_scores
from mmkd_plugin.adapters.probe import find_shape, probe
from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.errors import config_key
from mmkd_plugin.models.distillers.peers import Peer
from mmkd_plugin.models.methods import Method
from mmkd_plugin.outputs import Knowledge


@dataclass(frozen=True)
class PeerTaps:
    """What is recorded of a peer.

    Args:
        all: When it learns: for its own methods, and for the others if they take their lesson from the same forward.
        asked: When it is asked by the others alone.
        needs_scores: Whether class scores are among both.
    """

    all: FeatureTaps
    asked: FeatureTaps
    needs_scores: bool


def connect_peers(
    peers: Sequence[Peer],
    networks: Sequence[nn.Module],
    methods: Mapping[str, Mapping[str, Method]],
    probe_shape: Sequence[int] | None,
) -> dict[str, PeerTaps]:
    """Tap every peer for the union of what all methods want of it, and bind the methods to the shapes.

    Args:
        peers: In order.
        networks: Theirs.
        methods: Every learner's own instances, by its name.
        probe_shape: (channels, height, width) of an input that the peers accept, if the usual ones do not fit.

    Returns:
        The taps by peer.

    Raises:
        ValueError: If a tap, a shape, or the number of classes does not fit; the message begins with the config key.
    """
    needs_scores = any(method.needs_scores for own in methods.values() for method in own.values())
    taps = {
        peer.name: _taps(number, peers, networks[number], methods, needs_scores)
        for number, peer in enumerate(peers)
    }
    if not any(methods.values()):
        return taps
    shape = find_shape(networks[0], peers[0].host, probe_shape)
    seen = [
        _probe(peer, network, taps[peer.name].all, shape)
        for peer, network in zip(peers, networks, strict=True)
    ]
    if needs_scores:
        for peer, knowledge in zip(peers[1:], seen[1:], strict=True):
            require_comparable(peer.key, knowledge, 'the first peer', seen[0])
    for number, peer in enumerate(peers):
        for name, method in methods[peer.name].items():
            with config_key(f'methods.{name}'):
                method.bind(seen[number], [*seen[:number], *seen[number + 1 :]])
                _require_no_file(method)
    return taps


def _taps(
    number: int,
    peers: Sequence[Peer],
    network: nn.Module,
    methods: Mapping[str, Mapping[str, Method]],
    needs_scores: bool,
) -> PeerTaps:
    peer = peers[number]
    require_same_task(peer.key, peer.host, 'the first peer', peers[0].host)
    if needs_scores:
        require_scores(peer.key, network, peer.host)
        if peer.host.scores_need_training:
            raise ValueError(
                f'{peer.key}: expected class scores of the same places in every peer, got {type(network).__name__}, whose own '
                'training samples its regions: use methods on taps alone'
            )
    own: list[str] = []
    asked: list[str] = []
    for learner, other in enumerate(peers):
        for name, method in methods[other.name].items():
            with config_key(f'methods.{name}'):
                if other is peer:
                    own += FeatureTaps(
                        network, method.student_taps, f'student_taps of {peer.key}'
                    ).taps
                else:
                    index = number - (number > learner)
                    wanted = method.taps_of_teacher(index, len(peers) - 1)
                    asked += FeatureTaps(network, wanted, f'teacher_taps of {peer.key}').taps
    if needs_scores:
        asked += peer.host.score_taps
    optional = peer.host.optional_taps
    return PeerTaps(
        FeatureTaps(network, [*own, *asked], f'{peer.key} taps', optional),
        FeatureTaps(network, asked, f'{peer.key} taps', optional),
        needs_scores,
    )


def _probe(
    peer: Peer, network: nn.Module, taps: FeatureTaps, shape: tuple[int, int, int]
) -> Knowledge:
    try:
        return probe(network, peer.host, taps, shape)
    except RuntimeError as error:
        raise ValueError(
            f'{peer.key}: expected a network that runs on the input {shape} of the first: {error}'
        ) from error


def _require_no_file(method: Method) -> None:
    if (
        method.files_of_teachers
    ):  # what was made for a finished teacher means nothing of one that is still learning
        raise ValueError(
            'pairs: expected no checkpoint among peers, which are still learning: leave it out, and the paraphraser learns along'
        )
