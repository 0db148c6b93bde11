"""Two gloo processes train several networks as one process does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import processes

pytestmark = pytest.mark.slow
# Weights of 5, not 50: through BatchNorm at batch 8 those let a rounding error grow a thousandfold within four steps.
METHODS = dict(
    dml=dict(type='SoftTarget', temperature=1.0),
    **tiny.inherit_explore(inherit_weight=5.0, explore_weight=5.0),
)
CASES: dict[str, tuple[dict[str, Any], bool, dict[str, Any]]] = {
    **{
        f'{order}, {norm}': (tiny.mutual_config(order=order, methods=METHODS), norm == 'frozen', {})
        for order in ('alternating', 'simultaneous')
        for norm in ('frozen', 'synchronised')
    },
    'three peers': (tiny.mutual_config(*'abc'), True, {}),
    'accumulated': (
        tiny.mutual_config(methods=METHODS),
        True,
        dict(accumulative_counts=2, clip_grad=dict(max_norm=0.5)),
    ),
}
WRAPPERS = ('MMDistributedDataParallel', 'MMSeparateDistributedDataParallel')


@pytest.fixture(scope='module')
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both processes answered; they are started once for all the tests."""
    questions: dict[str, tuple[Any, ...]] = {
        name: (processes.train_peers, config, frozen, optim)
        for name, (config, frozen, optim) in CASES.items()
    }
    questions |= {
        wrapper: (processes.refuse_peers, tiny.mutual_config(), wrapper) for wrapper in WRAPPERS
    }
    return processes.in_two(tmp_path_factory.mktemp('peers'), questions)


@pytest.mark.parametrize('case', CASES)
def test_they_equal_one_process_with_the_whole_batch(
    ranks: list[dict[str, Any]], tmp_path: Path, case: str
) -> None:
    config, frozen, optim = CASES[case]
    alone = processes.train_peers(tmp_path, config, frozen, optim)
    for rank in ranks:
        found = rank[case]
        assert found['wrapper'] == 'PeerDataParallel' and alone['wrapper'] == 'MutualDistiller'
        assert found['metrics'] == pytest.approx(alone['metrics'], abs=1e-4)
        assert found['saved'] == alone['saved'], 'a checkpoint of two processes is one of one'
        for name, value in alone['state'].items():
            torch.testing.assert_close(
                found['state'][name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f'{n}: {m}'
            )


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_other_wrappers_are_refused_before_the_first_step(
    ranks: list[dict[str, Any]], wrapper: str
) -> None:
    assert ranks[0][wrapper].startswith(
        "model_wrapper_cfg: expected dict(type='mmkd_plugin.PeerDataParallel') for several networks in several processes, got "
        f'{wrapper}'
    )
