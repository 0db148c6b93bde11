"""Before training: taps for what the methods want, one probe forward a network, connectors for the shapes it shows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from mmkd_plugin.adapters import Host
from mmkd_plugin.adapters.comparability import require_comparable, require_same_task, require_scores
from mmkd_plugin.adapters.probe import find_shape, probe
from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import config_key
from mmkd_plugin.models.methods import Method

#: What to do about a teacher of other classes.
_HINT = (
    '; say which are meant: class_map=[…], for each class of the student the index of the teacher’s'
)


def connect(
    student: nn.Module,
    host: Host,
    teachers: Sequence[Teacher],
    methods: Mapping[str, Method],
    probe_shape: Sequence[int] | None,
) -> FeatureTaps:
    """Tap every network for the union of what the methods want, and bind the methods to the shapes.

    Returns:
        The student's taps; each teacher keeps its own.

    Raises:
        ValueError: If a tap, a shape, or the number of classes does not fit; the message begins with the config key.
    """
    needs_scores = any(method.needs_scores for method in methods.values())
    if needs_scores:
        require_scores('student', student, host)
    for teacher in teachers:
        require_same_task(teacher.key, teacher.host, 'the student', host)
        if needs_scores and host.task == 'detection':
            teacher.class_map.require_names(teacher.classes, teachers[0].name, teachers[0].classes)
    wanted: list[list[str]] = [[] for _ in (student, *teachers)]
    norms: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in teachers]
    for name, method in methods.items():
        with config_key(
            f'methods.{name}'
        ):  # a tap that does not exist is the fault of who asked for it
            wanted[0].extend(FeatureTaps(student, method.student_taps, 'student_taps').taps)
            for index, teacher in enumerate(teachers):
                asked = method.taps_of_teacher(index, len(teachers))
                wanted[index + 1].extend(
                    FeatureTaps(teacher.model, asked, f'teacher_taps of {teacher.key}').taps
                )
                for path in method.norms_of_teacher(index, len(teachers)):
                    norms[index][path] = teacher.norm(path)
    scores = host.score_taps if needs_scores else ()
    taps = FeatureTaps(student, [*wanted[0], *scores], 'student taps', host.optional_taps)
    for teacher, asked_of_it in zip(teachers, wanted[1:], strict=True):
        teacher.tap(asked_of_it, needs_scores)
    shape = find_shape(student, host, probe_shape)
    own = probe(student, host, taps, shape)
    others = [
        replace(teacher.probe(shape), norms=seen)
        for teacher, seen in zip(teachers, norms, strict=True)
    ]
    if needs_scores:
        for teacher, other in zip(teachers, others, strict=True):
            require_comparable(teacher.key, other, 'the student', own, _HINT)
    for name, method in methods.items():
        with config_key(f'methods.{name}'):
            method.bind(own, others)
            _require_trained(method, teachers)
    return taps


def _require_trained(method: Method, teachers: Sequence[Teacher]) -> None:
    if method.apart is not None:
        raise ValueError(
            f'pairs: expected a checkpoint for {type(method.apart).__name__} (train it first, in a stage of its own: '
            'mmkd_plugin.ParaphraserTrainer), got none; untrained, its target would be random'
        )
    for index, sha256 in method.files_of_teachers:
        if teachers[index].sha256 != sha256:
            raise ValueError(
                f'pairs: expected a checkpoint trained on the file of {teachers[index].key}, {teachers[index].checkpoint} '
                f'(SHA-256 {teachers[index].sha256.hex()[:8]}…), got those of another teacher ({sha256.hex()[:8]}…)'
            )
