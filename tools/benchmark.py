"""Measure what the project promises about speed and memory, as ratios within one run.

    python tools/benchmark.py                              # everything, on a GPU if there is one
    python tools/benchmark.py angle --threads 4 --repeats 15 --json angle.json

Absolute times depend on the machine and are not shown. On a CPU one thread is the default, for its own computing time can be told
from that of other processes; with more threads the wall clock counts, and the machine should be quiet. A missed bound is marked ✗,
and is no error: the exit code is 0.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.angle import measure_angle
from benchmarks.detection import measure_detection
from benchmarks.ie_kd import measure_ie_kd
from benchmarks.measure import Result
from benchmarks.mutual import measure_mutual
from benchmarks.steps import measure_steps

SUBJECTS: dict[str, Callable[[torch.device, int, bool], list[Result]]] = dict(
    angle=measure_angle,
    steps=measure_steps,
    ie_kd=measure_ie_kd,
    mutual=measure_mutual,
    detection=measure_detection,
)


def parse_args() -> argparse.Namespace:
    """What, where, how often."""
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
        '--repeats', type=int, default=7, help='rounds whose median counts (default: %(default)s)'
    )
    parser.add_argument(
        '--quick', action='store_true', help='small sizes, for which no ratio is promised'
    )
    parser.add_argument(
        '--system-allocator',
        action='store_true',
        help='let the allocator give memory back, as it does for users',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there as well')
    args = parser.parse_args()
    for name in ('threads', 'repeats'):
        if getattr(args, name) < 1:
            parser.error(f'--{name}: expected a number >= 1, got {getattr(args, name)}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device: expected cpu where torch finds no GPU, got cuda')
    return args


def main() -> None:
    """Measure, show, write."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu'
    print(
        f'{name}, {args.threads} thread(s), torch {torch.__version__}: median of {args.repeats} rounds (range)'
    )
    results: list[Result] = []
    for subject, measure in SUBJECTS.items():
        if args.subject in ('all', subject):
            for result in measure(device, args.repeats, args.quick):
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


def show(result: Result) -> None:
    """Print a line of the table."""
    mark = {True: '✓', False: '✗', None: ' '}[result.met]
    print(f'{mark} {result.name:<66} {result.shown:<24} {result.bound}'.rstrip(), flush=True)


def keep_memory() -> None:
    """Start anew with an allocator that keeps what it has, unless told otherwise.

    glibc gives freed memory back and has it faulted in again, every step, as soon as a step's peak is high enough; a whole step has
    a higher one than its parts, so that would be most of what is measured. PyTorch's allocator on GPUs keeps memory anyway.
    """
    kept = {'MALLOC_TRIM_THRESHOLD_': str(2**34), 'MALLOC_MMAP_THRESHOLD_': str(2**34)}
    asked_not_to = '--system-allocator' in sys.argv or kept.keys() & os.environ.keys()
    if sys.platform == 'linux' and not asked_not_to:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **kept})


if __name__ == '__main__':
    keep_memory()
    main()
