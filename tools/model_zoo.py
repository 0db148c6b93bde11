"""The model zoo: small trained networks in configs/model_zoo, and an index that states them.

    python tools/model_zoo.py verify
    python tools/model_zoo.py add CONFIG CHECKPOINT

`verify` checks the hash, loads strictly, and tests as tools/test.py does, on the CPU. The metric
must be that of the index, to its last digit. `add` exports a network without its optimizer. It
tests the network and writes the index.
"""

import argparse
import io
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch: sums depend on the number of threads

from experiments.model_zoo.add import Choices, add
from experiments.model_zoo.index import FOLDER, Zoo
from experiments.model_zoo.verify import verify
from mmengine.logging import MMLogger

from mmkd_plugin.errors import ConfigError, one_line


def parse_args() -> argparse.Namespace:
    """Return the command, add or verify, and its options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    verified = commands.add_parser('verify', help='check files and metrics')
    verified.add_argument('names', metavar='NAME', nargs='*', help='networks (default: all)')
    added = commands.add_parser('add', help='add a network, or replace the one of this name')
    added.add_argument('config', metavar='CONFIG', help='config of the training')
    added.add_argument('checkpoint', metavar='CHECKPOINT', help='its checkpoint')
    added.add_argument('--name', help='name in the index (default: that of the config)')
    added.add_argument(
        '--test-config',
        metavar='CONFIG',
        help='config of the network alone; needed if the training distils',
    )
    added.add_argument(
        '--command',
        dest='training_command',
        metavar='COMMAND',
        help='command of the training (default: tools/train.py with CONFIG, if it needs no other)',
    )
    added.add_argument('--network', metavar='NAME', help='one peer, after mutual learning')
    for name, text in (
        ('task', 'such as "Image Classification"'),
        ('licence', 'licence of the data'),
        ('licence-source', 'address of the page that states it'),
    ):
        added.add_argument(f'--{name}', help=f'{text}; needed for data of other projects')
    for command in (verified, added):
        command.add_argument(
            '--zoo', type=Path, default=FOLDER, help='folder of the zoo; the root is two above'
        )
    return parser.parse_args()


def verify_all(zoo: Zoo, names: list[str]) -> int:
    """Verify networks, print a line for each, and return 1 if one failed, else 0."""
    failed = 0
    for entry in zoo.named(names):
        try:
            # A host prints each path that it loads.
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
                trained = zoo.config_sha256(entry.training_config)
                metrics = verify(zoo, entry, Path(folder))
        except ConfigError as error:
            failed = 1
            print(f'FAILED {error}')
            continue
        stated = ', '.join(f'{key} = {metrics[key]}' for key in entry.metrics)
        print(f'{entry.name}: verified, {stated}')
        if trained != entry.training_sha256:
            print(f'{entry.name}: {entry.training_config} has changed since this training')
    return failed


def main() -> None:
    """Verify or add."""
    args = parse_args()
    # At INFO it logs every environment variable in a config.
    MMLogger.get_current_instance().setLevel('WARNING')
    zoo = Zoo(args.zoo)
    with one_line():
        if args.command == 'verify':
            sys.exit(verify_all(zoo, args.names))
        choices = Choices(
            name=args.name,
            test_config=args.test_config,
            command=args.training_command,
            network=args.network,
            task=args.task,
            licence=args.licence,
            licence_source=args.licence_source,
        )
        with redirect_stdout(io.StringIO()):
            entry = add(zoo, args.config, args.checkpoint, choices)
        print(f'{entry.name}: {entry.weights}, {dict(entry.metrics)}')


if __name__ == '__main__':
    main()
