import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.toy_run import write_config

TOOLS = Path(__file__).parents[2] / 'tools'
LAUNCHERS = ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh']


@pytest.mark.parametrize('name', LAUNCHERS)
def test_launcher_without_arguments_prints_its_usage(name: str) -> None:
    done = subprocess.run(['bash', TOOLS / name], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith('usage:')
    assert os.access(TOOLS / name, os.X_OK)


def environment(**more: str) -> dict[str, str]:
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    return {**os.environ, 'PATH': path, 'PYTHONPATH': str(TOOLS.parent / 'tests'), **more}


def test_slurm_train_passes_configs_and_flags_to_srun(tmp_path: Path) -> None:
    fake = tmp_path / 'srun'
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [TOOLS / 'slurm_train.sh', 'part', 'job', 'out', 'a.py', 'b.py', '--amp'],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            'PATH': f'{tmp_path}:{os.environ["PATH"]}',
            'GPUS': '4',
            'SRUN_ARGS': '--quiet --exclusive',
        },
    )
    told = done.stdout.split()
    assert {'--ntasks=4', '--gres=gpu:4', '--quiet', '--exclusive'} <= set(told)
    assert told[-8:] == [
        f'{TOOLS}/train.py',
        'a.py',
        'b.py',
        '--amp',
        '--work-dir',
        'out',
        '--launcher',
        'slurm',
    ]


@pytest.mark.slow
def test_dist_train_two_processes_train_the_stages_once(tmp_path: Path) -> None:
    first, second = (
        write_config(tmp_path / 'first.py'),
        write_config(tmp_path / 'second.py', 'randomness = dict(seed=8)'),
    )
    command = [TOOLS / 'dist_train.sh', first, second, '2', '--work-dir', tmp_path / 'out']
    for expected in ('train', 'skip'):
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(PORT=free_port())
        )
        assert done.returncode == 0, done.stderr
        assert f'Stage 2 of 2, {tmp_path}/out/second: {expected}' in done.stdout
    # 64 points in batches of 16 are two batches for each of two processes.
    assert 'Epoch(train) [2][2/2]' in (next((tmp_path / 'out/second').glob('*/*.log'))).read_text()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])
