"""Measure the speed and memory that the project promises, as ratios within one run.

    python tools/benchmark.py                              # everything, on a GPU if there is one
    python tools/benchmark.py angle --threads 4 --repeats 15 --json angle.json

Absolute times depend on the machine and are not shown. On a CPU the default is one thread, because
its own computing time can be separated from that of other processes. With more threads the wall
clock counts, and the machine should be quiet. A missed bound is marked ✗ and is not an error: the
exit code is 0.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from benchmarks import measure
from benchmarks.angle import measure_angle
from benchmarks.detection import measure_detection
from benchmarks.ie_kd import measure_ie_kd
from benchmarks.loss_memory import measure_loss_memory
from benchmarks.measure import Result
from benchmarks.methods import measure_methods
from benchmarks.mutual import measure_mutual
from benchmarks.replay import measure_replay
from benchmarks.steps import measure_steps
from benchmarks.teachers import measure_teachers
from experiments.progress import Heartbeat, duration

SUBJECTS: dict[str, Callable[[torch.device, int, bool], list[Result]]] = dict(
    angle=measure_angle,
    teachers=measure_teachers,
    steps=measure_steps,
    ie_kd=measure_ie_kd,
    mutual=measure_mutual,
    detection=measure_detection,
    replay=measure_replay,
    methods=measure_methods,
    loss_memory=measure_loss_memory,
)
#: About the seconds on 2 x86-64 cores with 7 repeats, for the first estimate of the time left.
USUAL_SECONDS = dict(
    angle=15.0,
    teachers=25.0,
    steps=60.0,
    ie_kd=30.0,
    mutual=90.0,
    detection=130.0,
    replay=45.0,
    methods=240.0,
    loss_memory=60.0,
)


def parse_args() -> argparse.Namespace:
    """Return the subject, the device and the number of rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('subject', nargs='?', default='all', choices=['all', *SUBJECTS])
    parser.add_argument(
        '--device', choices=['cpu', 'cuda'], default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    parser.add_argument(
        '--threads', type=int, default=1, help='of PyTorch on the CPU (default: %(default)s)'
    )
    parser.add_argument(
        '--repeats', type=int, default=7, help='rounds of the median (default: %(default)s)'
    )
    parser.add_argument(
        '--quick', action='store_true', help='small sizes, without promises about ratios'
    )
    parser.add_argument(
        '--system-allocator',
        action='store_true',
        help='let the allocator return memory to the system, as it does for users',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there as well')
    args = parser.parse_args()
    for name in ('threads', 'repeats'):
        if getattr(args, name) < 1:
            parser.error(f'--{name}: must be an integer >= 1 (found {getattr(args, name)})')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device: must be cpu, because torch finds no GPU (found cuda)')
    return args


def main() -> None:
    """Measure, print and write the results."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu'
    print(
        f'{name}, {args.threads} thread(s), torch {torch.__version__}: '
        f'median of {args.repeats} rounds (range)'
    )
    results: list[Result] = []
    subjects = list(SUBJECTS) if args.subject == 'all' else [args.subject]
    progress = BenchmarkProgress(subjects, args.repeats)
    measure.on_round = progress.round
    for subject in subjects:
        progress.begin(subject)
        for result in SUBJECTS[subject](device, args.repeats, args.quick):
            show(result)
            results.append(result)
    if args.json:
        report = dict(
            device=name,
            threads=args.threads,
            torch=torch.__version__,
            repeats=args.repeats,
            results=[dataclasses.asdict(result) for result in results],
        )
        args.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + '\n')


class BenchmarkProgress:
    """Prints a line a minute on standard error: the subject, the round and the time left.

    Args:
        subjects: Names of the subjects, in their order.
        repeats: Rounds of each.
        usual: Usual seconds of each subject with 7 repeats.
        say: Prints a line.
        clock: Returns seconds.
    """

    def __init__(
        self,
        subjects: list[str],
        repeats: int,
        usual: Mapping[str, float] = USUAL_SECONDS,
        say: Callable[[str], object] = lambda line: print(line, file=sys.stderr, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subjects, self._clock, self._heart = subjects, clock, Heartbeat(say, clock)
        # A round before the first is not counted.
        self._expected = {name: usual[name] * (repeats + 1) / 8 for name in subjects}
        self._began: list[float] = []

    def begin(self, subject: str) -> None:
        """Begin a subject; the one before has ended."""
        assert subject == self._subjects[len(self._began)]
        self._began.append(self._clock())

    def round(self, number: int, rounds: int) -> None:
        """Print a line if the last is a minute old; called before each round."""
        self._heart.beat(lambda: self.line(number, rounds))

    def line(self, number: int, rounds: int) -> str:
        """Return what is done, what runs, and the time left at the pace of the ended subjects."""
        position, now = len(self._began), self._clock()
        expected = list(self._expected.values())
        ended = self._began[-1] - self._began[0]
        pace = ended / sum(expected[: position - 1]) if position > 1 else 1.0
        left = pace * sum(expected[position - 1 :]) - (now - self._began[-1])
        return (
            f'benchmark: {self._subjects[position - 1]}, subject {position} of {len(expected)}, '
            f'round {number} of {rounds}, after {duration(now - self._began[0])}, '
            + (f'about {duration(left)} left' if left > 0 else 'longer than usual')
        )


def show(result: Result) -> None:
    """Print a line of the table."""
    mark = {True: '✓', False: '✗', None: ' '}[result.met]
    print(f'{mark} {result.name:<66} {result.shown:<24} {result.bound}'.rstrip(), flush=True)


def keep_memory() -> None:
    """Start anew with an allocator that keeps freed memory, unless ``--system-allocator`` is given.

    glibc returns freed memory to the system once a step's peak is high enough, and every step
    faults it in again. A whole step has a higher peak than its parts, so these page faults would
    be most of the measurement. PyTorch's allocator on GPUs keeps memory anyway.
    """
    kept = {'MALLOC_TRIM_THRESHOLD_': str(2**34), 'MALLOC_MMAP_THRESHOLD_': str(2**34)}
    unwanted = '--system-allocator' in sys.argv or kept.keys() & os.environ.keys()
    if sys.platform == 'linux' and not unwanted:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **kept})


if __name__ == '__main__':
    keep_memory()
    main()
