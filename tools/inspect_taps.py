"""List the taps of a network with their output shapes.

They are the paths for student_taps, teacher_taps and student_groups.

python tools/inspect_taps.py configs/demo/amtml_label.py --network teacher_01234
python tools/inspect_taps.py mmpretrain::resnet/resnet18_8xb16_cifar10.py --depth 2
"""

import argparse

from rich.console import Console
from rich.table import Column, Table

from mmkd_plugin.adapters.inspect_taps import tap_points
from mmkd_plugin.loading.student import network_of


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config', help="a config of this plugin or of a host: a path, or 'pkg::path'"
    )
    parser.add_argument(
        '--network', default='student', help="'student', or the name of a teacher or a peer"
    )
    parser.add_argument(
        '--shape', type=int, nargs=3, metavar=('C', 'H', 'W'), help='of one input image'
    )
    parser.add_argument('--depth', type=int, default=99, help='longest path, in parts')
    args = parser.parse_args()
    table = Table(Column('tap', overflow='fold'), 'module', 'output', 'cannot be tapped')
    for point in tap_points(network_of(args.config, args.network), args.shape):
        if point.tap.count('.') < args.depth:
            style = 'dim' if point.obstacle else ''
            # Escaped: rich takes [0] for markup otherwise.
            table.add_row(
                point.tap.replace('[', r'\['),
                point.module,
                str(point.shape),
                point.obstacle,
                style=style,
            )
    Console().print(table)


if __name__ == '__main__':
    main()
