"""Two gloo processes train what one process trains."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import processes

pytestmark = pytest.mark.slow
OBJECTIVES = ('paper', 'label')


@pytest.fixture(scope='module')
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configs, and what both processes answered; they are started once for all the tests."""
    folder = tmp_path_factory.mktemp('two')
    taught = tiny.teachers(folder)

    def config(**amtml: Any) -> dict[str, Any]:
        methods = dict(amtml=tiny.amtml(**amtml), kd=dict(type='SoftTarget'))
        return tiny.distiller_config(folder, teachers=taught, methods=methods)

    gathered = {
        objective: config(objective=objective, gather_angles=True) for objective in OBJECTIVES
    }
    local = config()
    stage_1 = dict(
        type='mmkd_plugin.ParaphraserTrainer',
        teacher=taught[0],
        tap='backbone.layer2',
        data_preprocessor=dict(tiny.PREPROCESSOR),
    )
    ranks = processes.in_two(
        folder,
        {
            'local': (processes.gradients, local),
            **{f'gathered {o}': (processes.gradients, made) for o, made in gathered.items()},
            **{f'run {o}': (processes.train, made, 3) for o, made in gathered.items()},
            'run local': (processes.train, local),
            'stage 1': (processes.gradients, stage_1),
        },
    )
    return dict(gathered=gathered, local=local, stage_1=stage_1, ranks=ranks)


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_gathered_angles_equal_one_process_with_the_whole_batch(
    asked: dict[str, Any], tmp_path: Path, objective: str
) -> None:
    logged, alone = processes.gradients(tmp_path, asked['gathered'][objective])
    for rank in asked['ranks']:
        rank_logged, gradients = rank[f'gathered {objective}']
        assert rank_logged['amtml.loss_angle'] == pytest.approx(
            logged['amtml.loss_angle'], rel=1e-5
        )
        assert gradients.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-6)


def test_local_angles_are_the_mean_of_the_halves(asked: dict[str, Any], tmp_path: Path) -> None:
    model = processes.build(asked['local'])
    halves = []
    for rank in range(2):
        raw = {name: value[rank::2] for name, value in tiny.batch_of(8).items()}
        halves.append(model.parse_losses(tiny.losses_of(model, raw)))
    (sum(total for total, _ in halves) / 2).backward()
    ranks = [rank['local'] for rank in asked['ranks']]
    for (logged, gradients), (_, expected) in zip(ranks, halves, strict=True):
        assert logged == pytest.approx(
            {name: value.item() for name, value in expected.items()}, rel=1e-5
        )
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
    whole, _ = processes.gradients(tmp_path, asked['local'])
    mean = {name: sum(logged[name] for logged, _ in ranks) / 2 for name in whole}
    assert whole['amtml.loss_angle'] != pytest.approx(mean['amtml.loss_angle'], rel=1e-3)
    for part in ('task.loss', 'amtml.loss_kd', 'amtml.loss_hint', 'kd.loss_kd'):
        assert whole[part] == pytest.approx(mean[part], rel=1e-5), (
            'all others are means over images'
        )


@pytest.mark.parametrize('run', ['paper', 'label', 'local'])
def test_a_run_of_all_parts_keeps_the_ranks_alike(asked: dict[str, Any], run: str) -> None:
    one, other = (rank[f'run {run}'] for rank in asked['ranks'])
    assert one['wrapper'] == other['wrapper'] == 'MMDistributedDataParallel'
    for name, value in one['state'].items():
        if 'running' not in name:  # BatchNorm's statistics are each rank's own
            assert torch.equal(value.nan_to_num(), other['state'][name].nan_to_num()), name


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_a_weighting_frozen_in_mid_run_stays_and_stops_nobody(
    asked: dict[str, Any], objective: str
) -> None:
    for rank in asked['ranks']:
        answers = rank[f'run {objective}']['answers']
        moved = [not torch.equal(a, b) for a, b in itertools.pairwise(answers)]
        assert moved == [True, True, True, False], 'frozen before the fourth step'
        assert rank[f'run {objective}']['state']['methods.amtml.weighting.frozen']


def test_a_paraphraser_learns_as_in_one_process_with_the_whole_batch(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    logged, alone = processes.gradients(tmp_path, asked['stage_1'])
    ranks = [rank['stage 1'] for rank in asked['ranks']]
    assert sum(losses['loss_rec'] for losses, _ in ranks) / 2 == pytest.approx(
        logged['loss_rec'], rel=1e-5
    )
    for _, gradients in ranks:
        assert gradients.keys() == alone.keys()
        assert all(name.startswith('paraphraser.') for name in gradients)
        for name, value in alone.items():
            torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-6)
