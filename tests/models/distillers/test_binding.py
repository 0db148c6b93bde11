"""Binding: taps for what all methods request, one dry run of each network, built methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from torch import Tensor, nn

from mmkd_plugin.adapters import Teacher
from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.distillers.binding import Learner, bind
from mmkd_plugin.models.methods import Method, Requests
from mmkd_plugin.outputs import NetworkOutput

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """Four layers in a row; it counts their runs."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        widths = (3, width, width + 1, width + 2, width + 3)
        self.layers = nn.ModuleList(
            nn.Conv2d(*widths[number : number + 2], 1) for number in range(4)
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.runs: list[int] = []
        for number, layer in enumerate(self.layers):
            layer.register_forward_hook(lambda *_, number=number: self.runs.append(number))

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs)
        return self.norm(inputs)


class Recorder(Method):
    """Requests what it is given, and keeps the probes."""

    def __init__(self, requests: Requests, error: Exception | None = None) -> None:
        super().__init__()
        self.requested = requests
        self.error = error

    def requests(self, num_teachers: int) -> Requests:
        self.num_teachers = num_teachers
        return self.requested

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        if self.error is not None:
            raise self.error
        self.student, self.teachers = student, list(teachers)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        raise NotImplementedError


def taps(student: int, *teachers: int) -> Recorder:
    """Return a method that taps a layer of the student, and one of each teacher."""
    names = tuple((f'layers.{number}',) for number in teachers)
    return Recorder(Requests(student=(f'layers.{student}',), teachers=names))


def networks(count: int) -> list[TappedModel]:
    return [TappedModel(Net(2 + number), 'abcd'[number]) for number in range(count)]


def recorded(network: TappedModel) -> list[str]:
    """Return the taps of a forward that somebody else runs, such as the training forward."""
    inputs = torch.zeros(2, *SHAPE)
    with network.recording(inputs) as recording:
        network.model(inputs)
    return sorted(recording.output.features)


def observed(network: TappedModel) -> tuple[list[str], list[int]]:
    """Return the taps of an observation, and the layers that it ran."""
    network.model.runs.clear()
    output = network.observe(torch.zeros(2, *SHAPE))
    return sorted(output.features), network.model.runs


def test_network_that_is_student_and_teacher_records_the_union_of_its_taps() -> None:
    a, b = networks(2)
    bind(
        [Learner(a, dict(m=taps(3, 1)), [b]), Learner(b, dict(m=taps(2, 0)), [a])],
        probe_shape=SHAPE,
    )
    assert recorded(a) == ['layers.0', 'layers.3'], 'its own method taps 3, that of b taps 0'
    assert recorded(b) == ['layers.1', 'layers.2']


def test_network_that_is_student_and_teacher_is_observed_by_others_taps_alone() -> None:
    a, b = networks(2)
    bind(
        [Learner(a, dict(m=taps(3, 1)), [b]), Learner(b, dict(m=taps(2, 0)), [a])],
        probe_shape=SHAPE,
    )
    assert observed(a) == (['layers.0'], [0]), 'it stops behind the deepest tap of the others'
    assert observed(b) == (['layers.1'], [0, 1])


def test_networks_in_a_ring_are_tapped_by_their_own_learners() -> None:
    a, b, c = networks(3)
    bind(
        [
            Learner(a, dict(m=taps(0, 1)), [b]),
            Learner(b, dict(m=taps(0, 2)), [c]),
            Learner(c, dict(m=taps(0, 3)), [a]),
        ],
        probe_shape=SHAPE,
    )
    assert [observed(one)[0] for one in (a, b, c)] == [['layers.3'], ['layers.1'], ['layers.2']]


def test_teacher_of_two_learners_is_observed_by_the_taps_of_both() -> None:
    a, b, shared = networks(3)
    bind(
        [
            Learner(a, dict(m=taps(0, 1)), [shared]),
            Learner(b, dict(m=taps(0, 2), n=taps(0, 1)), [shared]),
        ],
        probe_shape=SHAPE,
    )
    assert observed(shared) == (['layers.1', 'layers.2'], [0, 1, 2])
    assert observed(a) == ([], []), 'no one learns from it, so it does not run'


def test_taps_by_position_reach_each_teacher() -> None:
    student, *teachers = networks(4)
    bind([Learner(student, dict(m=taps(0, 1, 2, 3)), teachers)], probe_shape=SHAPE)
    assert [observed(one)[0] for one in teachers] == [['layers.1'], ['layers.2'], ['layers.3']]


def test_method_without_taps_of_teachers_leaves_them_untapped() -> None:
    student, teacher = networks(2)
    bind([Learner(student, dict(m=taps(2)), [teacher])], probe_shape=SHAPE)
    assert observed(teacher) == ([], [])
    assert recorded(student) == ['layers.2']


def test_methods_are_built_with_probes_of_their_own_student_and_teachers() -> None:
    a, b = networks(2)
    methods = dict(a=taps(3, 1), b=taps(2, 0))
    bind(
        [Learner(a, dict(m=methods['a']), [b]), Learner(b, dict(m=methods['b']), [a])],
        probe_shape=SHAPE,
    )
    for name, own, other in (('a', a, b), ('b', b, a)):
        method = methods[name]
        [teacher] = method.teachers
        assert method.num_teachers == 1
        assert (method.student.key, teacher.key) == (own.key, other.key)
        assert teacher.model is other.model and not teacher.frozen
    student, [teacher] = methods['a'].student, methods['a'].teachers
    assert student.feature('layers.3').shape == (2, 5, 8, 8)
    assert teacher.feature('layers.1').shape == (2, 4, 8, 8)


def test_frozen_teacher_gives_a_probe_with_its_hash(tmp_path: Path) -> None:
    student = TappedModel(tiny.network(tiny.classifier()), 'student')
    frozen = Teacher(tiny.classifier(), tiny.checkpoint(tmp_path), key='teacher')
    method = Recorder(Requests(student=('neck',), teachers=(('backbone.layer1',),), scores=True))
    bind([Learner(student, dict(m=method), [frozen])], probe_shape=None)
    [probe] = method.teachers
    assert probe.frozen and probe.sha256 == frozen.sha256 and probe.checkpoint == frozen.checkpoint
    assert probe.output.scores is not None and student.needs_scores and frozen.needs_scores


def test_scores_that_one_method_requests_are_read_of_every_network() -> None:
    learners = [
        TappedModel(tiny.network(tiny.classifier(), seed), f'peers[{seed}]') for seed in range(3)
    ]
    by_taps = Recorder(Requests(student=('neck',)))
    by_scores = Recorder(Requests(scores=True))
    bind(
        [
            Learner(learners[0], dict(m=by_taps), learners[1:]),
            Learner(learners[1], dict(m=by_scores), learners[2:]),
        ],
        probe_shape=None,
    )
    assert all(one.needs_scores for one in learners)
    assert by_taps.student.output.scores is not None


def test_each_network_runs_three_times_however_many_methods_request_taps() -> None:
    a, b = networks(2)
    methods = {name: taps(3, 3) for name in 'mnop'}
    bind([Learner(a, methods, [b]), Learner(b, dict(methods), [a])], probe_shape=SHAPE)
    # To try the input shape, to record the taps, and for the layout, up to the tap.
    assert a.model.runs == b.model.runs == [*range(4), *range(4), *range(4)]


def test_binding_leaves_modes_statistics_and_random_numbers_as_they_were() -> None:
    a, b = networks(2)
    a.model.train()
    b.model.train()
    b.model.norm.eval()
    before = [tiny.weights_of(one.model) for one in (a, b)]
    state = torch.get_rng_state()
    bind([Learner(a, dict(m=taps(0, 0)), [b])], probe_shape=None)
    assert torch.equal(torch.get_rng_state(), state)
    for one, weights in zip((a, b), before, strict=True):
        assert tiny.differing(one.model.state_dict(), weights) == []
    assert (a.model.training, a.model.norm.training) == (True, True)
    assert (b.model.training, b.model.norm.training) == (True, False)


def test_requests_are_returned_by_learner_and_method() -> None:
    a, b = networks(2)
    one, other = taps(1, 2), taps(0, 3)
    found = bind(
        [Learner(b, dict(x=one), [a]), Learner(a, dict(y=other, x=one), [b])], probe_shape=SHAPE
    )
    assert found == [dict(x=one.requested), dict(y=other.requested, x=one.requested)]


def test_learners_without_methods_run_no_network() -> None:
    a, b = networks(2)
    assert bind([Learner(a, {}, [b]), Learner(b, {}, [a])], probe_shape=None) == [{}, {}]
    assert a.model.runs == b.model.runs == []


@pytest.mark.parametrize(('student', 'teacher', 'key'), [(7, 1, 'a'), (1, 7, 'b')])
def test_unknown_tap_is_an_error_about_the_method_that_names_the_network(
    student: int, teacher: int, key: str
) -> None:
    a, b = networks(2)
    with raises_config_error('methods.m', 'layers.7', f'{key} (Net)', fix="'layers.1'"):
        bind([Learner(a, dict(m=taps(student, teacher)), [b])], probe_shape=SHAPE)
    assert a.model.runs == [], 'before any network runs'


def test_config_error_of_a_method_gets_its_key_and_other_errors_pass() -> None:
    a, b = networks(2)
    wrong = Recorder(Requests(), ConfigError('loss_weight', 'must be even', found=3))
    with raises_config_error('methods.m.loss_weight', 3):
        bind([Learner(a, dict(m=wrong), [b])], probe_shape=SHAPE)
    broken = Recorder(Requests(), ValueError('a bug'))
    with pytest.raises(ValueError, match=r'^a bug$'):
        bind([Learner(a, dict(m=broken), [b])], probe_shape=SHAPE)


def test_second_network_that_does_not_accept_the_shape_is_named() -> None:
    a, b = networks(2)
    b.model.layers[0] = nn.Conv2d(3, 3, 1000)
    with raises_config_error('probe_shape', ANY, 'b:', fix='all networks'):
        bind([Learner(a, dict(m=taps(0, 0)), [b])], probe_shape=None)
