"""Two gloo processes train what one process trains."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import processes

pytestmark = pytest.mark.slow
OBJECTIVES = ('paper', 'label')
#: Relative tolerance of losses; rounding errors take up at most 1/30 of it.
LOSSES = 1e-5
#: (rtol, atol) of gradients; rounding errors take up at most 1/20 of them, and 1/10 where gathered
#: angles are summed in another order.
GATHERED, GRADIENTS = (1e-5, 1e-6), (2e-5, 2e-7)
CASES = dict.fromkeys(OBJECTIVES, GATHERED) | dict.fromkeys(('local', 'stage 1'), GRADIENTS)
OFF_BY_A_THOUSANDTH = partial(processes.scale_gradients, part='', scale=1.001)


@pytest.fixture(scope='module')
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the configs by name."""
    folder = tmp_path_factory.mktemp('configs')
    teachers = tiny.teachers(folder)

    def distiller(**amtml: Any) -> dict[str, Any]:
        methods = dict(amtml=tiny.amtml(**amtml), kd=dict(type='SoftTarget'))
        return tiny.distiller_config(folder, teachers=teachers, methods=methods)

    stage_1 = dict(
        type='mmkd_plugin.ParaphraserTrainer',
        teacher=teachers[0],
        tap='backbone.layer2',
        data_preprocessor=tiny.preprocessor(),
    )
    gathered = {one: distiller(objective=one, gather_angles=True) for one in OBJECTIVES}
    configs = {**gathered, 'local': distiller(), 'stage 1': stage_1}
    # Connectors rest: those of the hints of AMTML-KD in the first two steps, the others later.
    late, early = (
        dict(type='LinearSchedule', start=start, stop=1.0 - start, begin=1, end=3, by_epoch=False)
        for start in (0.0, 1.0)
    )
    pairs = [dict(student='backbone.layer1', teacher='backbone.layer1')]
    methods = dict(
        amtml=tiny.amtml(hint_weight=late), hint=dict(type='Hint', pairs=pairs, loss_weight=early)
    )
    return {**configs, 'resting': tiny.distiller_config(folder, teachers=teachers, methods=methods)}


@pytest.fixture(scope='module')
def ranks(
    configs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Return the results of both processes, which are started once for all tests."""
    calls: processes.Calls = {}
    for name, config in configs.items():
        if name == 'resting':
            continue
        calls[name] = (processes.gradients, config)
        calls[f'{name}, control'] = (processes.gradients, config, OFF_BY_A_THOUSANDTH)
    for objective in OBJECTIVES:
        calls[f'run {objective}'] = (processes.train, configs[objective], 3)
    for name in ('local', 'resting'):
        calls[f'run {name}'] = (processes.train, configs[name])
    return processes.in_two(tmp_path_factory.mktemp('two'), calls)


@pytest.fixture(scope='module')
def expected(configs: dict[str, Any]) -> dict[str, Any]:
    """Return losses and gradients of one process.

    Angles without ``gather_angles`` are compared within each half of the batch, so the two halves
    are the reference there.
    """
    found = {
        name: processes.gradients(Path(), config)
        for name, config in configs.items()
        if name != 'resting'
    }
    model = processes.build(configs['local'])
    halves = []
    for rank in range(2):
        raw = {name: value[rank::2] for name, value in tiny.batch_of(8).items()}
        halves.append(model.parse_losses(tiny.losses_of(model, raw)))
    (sum(total for total, _ in halves) / 2).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    losses = [{name: value.item() for name, value in logged.items()} for _, logged in halves]
    return {**found, 'halves': losses, 'local': (found['local'][0], gradients)}


@pytest.mark.parametrize('case', CASES)
def test_gradients_of_two_processes_equal_those_of_one(
    ranks: list[dict[str, Any]], expected: dict[str, Any], case: str
) -> None:
    _, alone = expected[case]
    for rank in ranks:
        _, gradients = rank[case]
        assert processes.excess(gradients, alone, *CASES[case]) <= 1
        if case == 'stage 1':
            assert all(name.startswith('paraphraser.') for name in gradients)


@pytest.mark.parametrize('case', CASES)
def test_gradients_that_are_a_thousandth_off_in_one_process_fail_the_comparison(
    ranks: list[dict[str, Any]], expected: dict[str, Any], case: str
) -> None:
    """The control."""
    _, alone = expected[case]
    for rank in ranks:
        _, gradients = rank[f'{case}, control']
        assert processes.excess(gradients, alone, *CASES[case]) > 10


@pytest.mark.parametrize('case', CASES)
def test_compared_gradients_let_noise_stay_small(configs: dict[str, Any], case: str) -> None:
    """Noise is ten times as large as rounding errors: a comparison fails by it on no machine."""
    _, gradients = processes.gradients(Path(), configs[case])
    change = partial(processes.add_noise, noise=1e-6)
    _, noisy = processes.gradients(Path(), configs[case], change)
    assert 0 < processes.excess(noisy, gradients, rtol=1e-3, atol=1e-5) <= 1


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_gathered_angles_of_each_process_are_those_of_the_whole_batch(
    ranks: list[dict[str, Any]], expected: dict[str, Any], objective: str
) -> None:
    whole, _ = expected[objective]
    for rank in ranks:
        logged, _ = rank[objective]
        assert logged['amtml.loss_angle'] == pytest.approx(whole['amtml.loss_angle'], rel=LOSSES)


def test_local_losses_are_those_of_each_half(
    ranks: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    for rank, half in zip(ranks, expected['halves'], strict=True):
        logged, _ = rank['local']
        assert logged == pytest.approx(half, rel=LOSSES)


def test_losses_other_than_angles_are_means_over_images(
    ranks: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    whole, _ = expected['local']
    mean = {name: sum(rank['local'][0][name] for rank in ranks) / 2 for name in whole}
    for part in ('task.loss', 'amtml.loss_kd', 'amtml.loss_hint', 'kd.loss_kd'):
        assert mean[part] == pytest.approx(whole[part], rel=LOSSES)
    assert mean['amtml.loss_angle'] != pytest.approx(whole['amtml.loss_angle'], rel=1e-3)


def test_reconstruction_losses_are_means_over_images(
    ranks: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    whole, _ = expected['stage 1']
    mean = sum(rank['stage 1'][0]['loss_rec'] for rank in ranks) / 2
    assert mean == pytest.approx(whole['loss_rec'], rel=LOSSES)


@pytest.mark.parametrize('run', ['paper', 'label', 'local', 'resting'])
def test_ranks_end_a_run_of_all_parts_with_equal_weights(
    ranks: list[dict[str, Any]], run: str
) -> None:
    one, other = (rank[f'run {run}'] for rank in ranks)
    assert one['wrapper'] == other['wrapper'] == 'MMDistributedDataParallel'
    names = tiny.differing(one['state'], other['state'])
    assert all('running' in name for name in names), 'each rank has its own statistics'


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_weighting_frozen_in_mid_run_stays_as_it_is(
    ranks: list[dict[str, Any]], objective: str
) -> None:
    """DDP waits for no gradient of it either."""
    for rank in ranks:
        run = rank[f'run {objective}']
        moved = [not torch.equal(a, b) for a, b in itertools.pairwise(run['weights'])]
        assert moved == [True, True, True, False], 'frozen before the fourth step'
        assert run['state']['methods.amtml.mixture.weighting.frozen']
