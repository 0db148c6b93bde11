"""Before training: taps for what the methods request, a dry run of each network, connectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmengine.logging import print_log

from mmkd_plugin.adapters.compat import require_comparable, require_same_task
from mmkd_plugin.adapters.dry_run import Shape, blank_images
from mmkd_plugin.adapters.embedding import find_embedding
from mmkd_plugin.adapters.levels import LevelFinder
from mmkd_plugin.adapters.probe import (
    TeacherProbe,
    find_shape_near,
    find_shapes,
    probe_network,
)
from mmkd_plugin.adapters.replayed_teacher import ReplayedTeacher
from mmkd_plugin.adapters.tap_requests import EMBEDDING
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import ConfigError, config_key
from mmkd_plugin.models.distillers.effect import require_effect
from mmkd_plugin.models.methods import Method, Requests


@dataclass(frozen=True, eq=False)
class Learner:
    """A network that learns from teachers by methods; the teachers may be peers.

    Args:
        network: The network.
        methods: Its methods, by name.
        teachers: Its teachers, in the order in which methods receive them.
    """

    network: TappedModel
    methods: Mapping[str, Method]
    teachers: Sequence[TappedModel]


def bind(
    learners: Sequence[Learner], probe_shape: Sequence[int] | None
) -> list[dict[str, Requests]]:
    """Tap every network for what all methods request of it, and build the methods' connectors.

    Args:
        learners: All networks that learn.
        probe_shape: (channels, height, width) of an input that all networks accept; None to find
            one.

    Returns:
        The requests of each learner's methods, by name.

    Raises:
        ConfigError: If a tap, a shape, a task or the number of classes does not fit.
    """
    requests = {learner.network: _requests(learner, probe_shape) for learner in learners}
    every = [one for own in requests.values() for one in own.values()]
    boxes = any(one.boxes for one in every)
    scores = boxes or any(one.scores for one in every)
    networks = list(dict.fromkeys(n for one in learners for n in (one.network, *one.teachers)))
    for network, own in requests.items():
        network.adapter.watches |= any(one.assigned for one in own.values())
    first = networks[0]
    for network in networks[1:]:
        require_same_task(network.key, network.adapter, first.key, first.adapter)
    if scores:
        _require_same_classes(learners)
        _require_same_regions(learners)
    for network in networks:
        _request(network, learners, requests, scores, boxes)
    if not scores and any(network.needs_regions for network in networks):
        _require_regions(networks)
        _require_same_regions(learners)
        for network in networks:
            _request(network, learners, requests, True, boxes)
    if any(requests.values()):
        shapes = _shapes(networks, probe_shape)
        if scores:
            _share_queries(networks, shapes)
        probes = {network: _probe(network, shapes[network]) for network in networks}
        if scores:
            for network in networks[1:]:
                output, other = probes[network].output, probes[first].output
                require_comparable(network.key, output, first.key, other)
        whole: dict[str, set[str]] = {}  # taps that a method reads as they are
        for learner in learners:
            teachers = [probes[teacher] for teacher in learner.teachers]
            for name, method in learner.methods.items():
                request = requests[learner.network][name]
                before = [len(one.reductions) for one in teachers]
                with config_key(f'methods.{name}'):
                    method.build(probes[learner.network], teachers)
                for one, taps, first_own in zip(teachers, request.teachers, before, strict=False):
                    reduced = {reduction.tap for reduction in one.reductions[first_own:]}
                    whole.setdefault(one.key, set()).update(set(taps) - reduced)
                with config_key(f'methods.{name}'):
                    if request.scores:  # maps have other sizes in training
                        require_effect(method, request, probes[learner.network], teachers)
        for network in networks:
            if isinstance(network, ReplayedTeacher):
                network.keep(whole.get(network.key, set()), probes[network].reductions)
    return list(requests.values())


def _shapes(
    networks: Sequence[TappedModel], probe_shape: Sequence[int] | None
) -> dict[TappedModel, Shape]:
    """Return the input shape of each network.

    A teacher in a store has those of its probes. One with another view has the size of the others
    where it accepts that, or else one of its own.
    """
    teachers = [one for one in networks if isinstance(one, Teacher)]
    stored = [one for one in teachers if one.stored]
    viewing = [one for one in teachers if one.view is not None and not one.stored]
    apart = [*stored, *viewing]
    shapes = find_shapes([one for one in networks if one not in apart], probe_shape)
    first = next(iter(shapes.values()))
    for one in apart:
        size = (one.view and one.view.size) or first[1:]
        shapes[one] = (first[0], *size) if one.stored else find_shape_near(one, size)
    return shapes


def _requests(learner: Learner, probe_shape: Sequence[int] | None) -> dict[str, Requests]:
    found = {}
    network = learner.network
    finders = [LevelFinder(one, probe_shape) for one in (network, *learner.teachers)]
    for name, method in learner.methods.items():
        with config_key(f'methods.{name}'):
            for sentence in method.choose_taps(finders[0], finders[1:]):
                print_log(f'methods.{name}: {sentence}.', logger='current')
            one = method.requests(len(learner.teachers))
            if EMBEDDING in one.student and network.embedding is None:
                network.embedding = find_embedding(network, probe_shape)
            if one.objects and network.adapter.task != 'detection':
                problem = f'needs boxes of objects, and {network.key} is no detector'
                fix = "Use a method on maps alone, such as type='PKD'."
                raise ConfigError('type', problem, fix, found=type(network.model).__name__)
            network.parse(one.student, '')
            for teacher, taps in zip(learner.teachers, one.teachers, strict=bool(one.teachers)):
                teacher.parse(taps, '')
            found[name] = one
    return found


def _request(
    network: TappedModel,
    learners: Sequence[Learner],
    requests: Mapping[TappedModel, Mapping[str, Requests]],
    scores: bool,
    boxes: bool,
) -> None:
    """Request of one network what all methods need of it as a student and as a teacher."""
    own = [tap for one in requests.get(network, {}).values() for tap in one.student]
    observed: list[str] = []
    for learner in learners:
        if network in learner.teachers:
            index = learner.teachers.index(network)
            for one in requests[learner.network].values():
                observed += one.teachers[index] if one.teachers else ()
    network.request([*own, *observed], scores, observed, boxes)


def _probe(network: TappedModel, shape: Shape) -> TeacherProbe:
    if isinstance(network, Teacher):
        return network.probe(shape)
    output = probe_network(network, shape, training=True)
    return TeacherProbe(network.key, output, network.model, size=shape[1:])


def _require_same_classes(learners: Sequence[Learner]) -> None:
    """Refuse detectors as teachers whose checkpoints name other classes than the first one's."""
    for learner in learners:
        teachers = [teacher for teacher in learner.teachers if isinstance(teacher, Teacher)]
        for teacher in teachers:
            if teacher.adapter.task == 'detection':
                reference = teachers[0]
                teacher.class_map.require_names(teacher.classes, reference.name, reference.classes)


def _require_regions(networks: Sequence[TappedModel]) -> None:
    """Refuse taps on regions beside a network that has none; class scores carry the regions."""
    for network in networks:
        if not network.adapter.scores_need_training:
            raise ConfigError(
                network.key,
                'must be a two-stage detector, as another network is tapped in its RoI head, which '
                'runs on the regions that the student samples',
                'Tap modules of the backbone or the neck.',
                found=type(network.model).__name__,
            )


def _share_queries(networks: Sequence[TappedModel], shapes: Mapping[TappedModel, Shape]) -> None:
    """Let all networks decode the queries of the first teacher; they correspond row by row.

    A frozen teacher is rebuilt with the same queries when a run is resumed.
    """
    sharing = [network for network in networks if network.adapter.queries is not None]
    if not sharing:
        return
    teachers = [network for network in sharing if isinstance(network, Teacher)]
    if not teachers:
        raise ConfigError(
            networks[0].key,
            'class scores of queries need a frozen teacher, whose queries all networks decode',
            'Use methods on taps alone.',
            found=type(networks[0].model).__name__,
        )
    source = teachers[0]
    with source.keyed():
        blank = blank_images(source.model, shapes[source])
        queries = source.adapter.find_queries(source.model, blank)
    for network in sharing:
        network.adapter.queries = queries


def _require_same_regions(learners: Sequence[Learner]) -> None:
    """Refuse class scores of regions between peers, each of which samples its own regions."""
    if len(learners) < 2:
        return
    for learner in learners:
        if learner.network.adapter.scores_need_training:
            raise ConfigError(
                learner.network.key,
                'the class scores of peers must belong to the same locations, but this detector '
                'samples its own regions',
                'Use methods on taps alone.',
                found=type(learner.network.model).__name__,
            )
