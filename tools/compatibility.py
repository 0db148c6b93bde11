"""Take one training step of every stock family of the hosts by every kind of method.

    python tools/compatibility.py                     # all families: about an hour on two cores
    python tools/compatibility.py mmdet/gfl mmdet/detr  # some of them

Finished families are kept in the file of --rows, so an interrupted run goes on. The page is
docs/compatibility.md.
"""

import argparse
import os
import warnings
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('families', nargs='*', help='HOST/FAMILY; all by default')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='processes')
    parser.add_argument('--rows', type=Path, default=Path('work_dirs/compatibility.jsonl'))
    parser.add_argument('--page', type=Path, help='default: docs/compatibility.md for all families')
    return parser.parse_args()


def main() -> None:
    """Run the families, write the page, and print how many of each verdict there are."""
    args = parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    warnings.simplefilter('ignore')
    from experiments.compatibility.families import HOSTS, families
    from experiments.compatibility.report import counts, page
    from experiments.compatibility.run import run_families

    for module in (*(f'{host}.models' for host in HOSTS), 'mmkd_plugin'):
        import_module(module)
    known = {family.key: family for family in families()}
    if unknown := [name for name in args.families if name not in known]:
        raise SystemExit(f'{unknown[0]} is no family. Some are {", ".join(list(known)[:5])}, …')
    chosen = [known[name] for name in args.families] or list(known.values())
    rows = run_families(chosen, args.rows, args.jobs)
    target = args.page or (None if args.families else ROOT / 'docs' / 'compatibility.md')
    if target is not None:
        target.write_text(page(rows, 'python tools/compatibility.py'))
        print(f'wrote {target}')
    for method, found in counts(rows).items():
        print(f'{method}: ' + ', '.join(f'{n} {verdict}' for verdict, n in sorted(found.items())))


if __name__ == '__main__':
    main()
