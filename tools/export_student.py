"""Write the student of a distillation checkpoint as a checkpoint of its own framework.

    python tools/export_student.py work_dirs/amtml_label/epoch_30.pth student.pth

The file has no prefix, teacher or optimizer. The stock model loads it without a missing or an
unexpected key: mmpretrain.get_model(config, pretrained='student.pth').
"""

import argparse
from pathlib import Path

import torch

from mmkd_plugin.loading.export import export_student


def main() -> None:
    """Export the student, and print the size of the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'checkpoint',
        help='path or URL; the averaged weights are taken if a run averages them (EMA)',
    )
    parser.add_argument('out', type=Path)
    parser.add_argument('--network', metavar='NAME', help='name of the peer, after mutual learning')
    parser.add_argument(
        '--hash',
        action='store_true',
        help='end the name with 8 digits of the SHA-256, for publishing',
    )
    args = parser.parse_args()
    out = export_student(args.checkpoint, args.out, args.hash, args.network)
    state = torch.load(out, map_location='cpu', weights_only=True)['state_dict']
    numbers = sum(value.numel() for value in state.values())
    print(f'{out}: {len(state)} tensors, {numbers:,} numbers, {out.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    main()
