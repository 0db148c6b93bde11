"""Make targets in every order from a clean clone: real virtual environments, and a fake pip."""

from pathlib import Path

import pytest
from helpers.browser import REQUIRED
from helpers.machine import Machine

#: Lines of a target that does its work.
WORK = {
    'lint': ['ruff ran check .', 'codespell ran', 'check_words.py ran'],
    'format': ['ruff ran format .'],
    'type': ['mypy ran'],
    'test': ['pytest ran'],
    'test-fast': ['pytest ran'],
    'demo': ['demo.py ran'],
    'demo-det': ['demo_det.py ran'],
    'compatibility': ['compatibility.py ran'],
    'check': ['ruff ran check .', 'mypy ran', 'pytest ran'],
}
COMPILES = ('type', 'test', 'test-fast', 'demo-det', 'compatibility', 'check')


def made(machine: Machine, target: str, **environment: str) -> str:
    """Make a target, check that it did its work, and return the output."""
    printed = machine.make(target, 'JOBS=1', **environment)
    for line in WORK[target]:
        assert line in printed, f'make {target}:\n{printed}'
    return printed


@pytest.fixture(scope='module')
def after(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Machine]:
    """A machine after each first target."""
    machines = {}
    for target in WORK:
        machines[target] = Machine(tmp_path_factory.mktemp(target) / 'machine')
        made(machines[target], target)
    return machines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / 'machine')


@pytest.mark.slow
@pytest.mark.parametrize('first', WORK)
def test_make_second_target_works_after_the_first(
    after: dict[str, Machine], tmp_path: Path, first: str
) -> None:
    for second in WORK:
        machine = after[first].copy(tmp_path / second)
        made(machine, second)


@pytest.mark.slow
@pytest.mark.parametrize('target', WORK)
def test_make_repeated_target_installs_nothing(after: dict[str, Machine], target: str) -> None:
    before = after[target].pip_log
    made(after[target], target)
    assert after[target].pip_log == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ('variables', 'line'), [((), 'demo.py ran'), (('PRETRAINED=1',), 'demo.py ran --pretrained')]
)
def test_make_demo_trains_unless_pretrained(
    after: dict[str, Machine], variables: tuple[str, ...], line: str
) -> None:
    assert line in after['demo'].make('demo', *variables).splitlines()


@pytest.mark.slow
def test_make_installs_no_more_than_a_target_needs(after: dict[str, Machine]) -> None:
    assert after['lint'].pip_log == ['install -c constraints.txt ruff codespell']
    demo = ' '.join(after['demo'].pip_log)
    assert '.[demo]' in demo and 'mmcv-lite' in demo
    assert 'wheel -' not in demo and '.[dev]' not in demo and 'ruff' not in demo
    for target in COMPILES:
        assert any(call.startswith('wheel ') for call in after[target].pip_log), target


@pytest.mark.slow
@pytest.mark.parametrize('first', ['lint', 'demo', 'test'])
def test_make_changed_constraints_set_up_again(
    after: dict[str, Machine], tmp_path: Path, first: str
) -> None:
    for second in ('lint', 'demo', 'test'):
        machine = after[first].copy(tmp_path / second)
        machine.outdate()
        before = len(machine.pip_log)
        made(machine, second)
        assert len(machine.pip_log) > before


#: Calls of pip at which a set-up may break off.
INTERRUPTIONS = [
    ('lint', 'install -c constraints.txt ruff'),
    *((target, call) for target in ('demo', 'test') for call in ('torch torchvision', '-e .[')),
    ('demo', 'mmcv-lite'),
    ('test', 'wheel --no-deps'),
    ('test', 'uninstall'),
    ('test', '.whl'),
]


@pytest.mark.slow
@pytest.mark.parametrize(('target', 'call'), INTERRUPTIONS)
def test_make_interrupted_set_up_continues_and_leaves_no_false_stamp(
    machine: Machine, tmp_path: Path, target: str, call: str
) -> None:
    done = machine.run('make', target, FAKE_PIP_FAILS=call)
    assert done.returncode != 0
    assert 'the same command continues from here' in done.stderr
    assert list((machine.clone / '.venv').glob('*.ready')) == []
    for second in ('lint', 'demo', 'test'):
        made(machine.copy(tmp_path / second), second)


@pytest.mark.slow
@pytest.mark.parametrize('stamps', [1, 2])
def test_make_killed_between_two_stamps_works(
    machine: Machine, tmp_path: Path, stamps: int
) -> None:
    """The set-up of ``test`` writes three stamps; it is killed after the first or the second."""
    touch = (machine.path / 'touch').resolve()
    machine.add(
        'touch',
        f'[ -e "{machine.clone}/killed" ] || case $1 in *.ready)\n'
        f'    written=("{machine.clone}"/.venv/*.ready)\n'
        f'    if [ -e "${{written[{stamps - 1}]:-}}" ]; then\n'
        f'        {touch} "{machine.clone}/killed"\n'
        '        kill -9 $PPID\n'
        '        exit 1\n'
        '    fi ;;\n'
        'esac\n'
        f'exec {touch} "$@"',
    )
    assert machine.run('make', 'test').returncode != 0
    assert len(list((machine.clone / '.venv').glob('*.ready'))) == stamps
    for second in ('lint', 'demo', 'test'):
        made(machine.copy(tmp_path / second), second)


@pytest.mark.slow
def test_make_parallel_targets_set_up_one_after_the_other(machine: Machine) -> None:
    printed = machine.make('-j4', 'lint', 'demo', 'type', 'JOBS=1')
    for target in ('lint', 'demo', 'type'):
        assert all(line in printed for line in WORK[target])


@pytest.mark.slow
def test_make_false_stamp_is_noticed(machine: Machine) -> None:
    """The control: these tests fail if a stamp claims what is not installed, as it once did."""
    made(machine, 'demo')
    (machine.clone / '.venv/lint.ready').touch()
    assert 'No module named ruff' in machine.run('make', 'lint').stderr


@pytest.mark.slow
def test_ci_runs_check(machine: Machine) -> None:
    done = machine.run('bash', '.ci/run', JOBS='1')
    assert done.returncode == 0, done.stderr
    assert all(line in done.stdout for line in WORK['check'])


@pytest.mark.parametrize(
    ('user', 'installed', 'calls'),
    [
        (0, [], ['-qq update', '-qq install -y --no-install-recommends chromium']),
        (1000, [], []),
        (0, ['chromium'], []),
        (0, ['google-chrome'], []),
    ],
)
def test_ci_installs_the_browser_that_its_tests_require(
    machine: Machine, user: int, installed: list[str], calls: list[str]
) -> None:
    machine.add('id', f'echo {user}')
    machine.add('apt-get', 'echo "apt-get $*" >&2')
    machine.add('make', f'echo "make $* with ${REQUIRED}"')
    for name in installed:
        machine.add(name, '')
    done = machine.run('bash', '.ci/run')
    assert done.stderr.splitlines() == [f'apt-get {call}' for call in calls]
    assert done.stdout == 'make check with 1\n'


def test_ci_failed_installation_of_the_browser_ends_it(machine: Machine) -> None:
    machine.add('id', 'echo 0')
    machine.add('apt-get', 'echo "no network" >&2; exit 100')
    done = machine.run('bash', '.ci/run')
    assert (done.returncode, done.stdout, done.stderr) == (100, '', 'no network\n')
