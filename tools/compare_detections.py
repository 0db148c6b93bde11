"""Draw the boxes of detectors beside the ground truth, one picture for each image.

    python tools/compare_detections.py DISTIL.py DISTIL.pth --against ALONE.py ALONE.pth alone

A distillation config shows its student and each teacher. A config of mutual learning shows all
peers, and any other its detector.
"""

import argparse
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.hub import get_config

from mmkd_plugin.analysis.detections import SPLITS, compare_detections
from mmkd_plugin.engine.stages import work_root


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="a path, or 'pkg::path'; its data set has the images")
    parser.add_argument(
        'checkpoint', help='of its run, or an exported student; teachers have their own files'
    )
    parser.add_argument(
        '--against',
        nargs='+',
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT [NAME]'),
        help='another network to compare with, such as the student of another run; may be repeated',
    )
    parser.add_argument(
        '--name', help="title of the config's own network (default: student, or the config's name)"
    )
    parser.add_argument(
        '--without',
        nargs='+',
        default=[],
        metavar='NAME',
        help='networks of the config to leave out',
    )
    parser.add_argument('--split', choices=SPLITS, default='test', help='default: %(default)s')
    parser.add_argument(
        '--images', type=int, default=8, help='the first ones (default: %(default)s)'
    )
    parser.add_argument(
        '--indices', type=int, nargs='+', metavar='INDEX', help='images, in place of the first ones'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='boxes above it are drawn (default: %(default)s)',
    )
    parser.add_argument('--out', type=Path, help="folder; default: detections, in the checkpoint's")
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value')
    return parser.parse_args()


def main() -> None:
    """Load the networks, draw, and print the paths of the pictures."""
    args = parse_args()
    work_root()
    cfg = get_config(args.config) if '::' in args.config else Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    paths = compare_detections(
        cfg,
        args.checkpoint,
        args.against,
        out=args.out or Path(args.checkpoint).parent / 'detections',
        name=args.name,
        without=args.without,
        split=args.split,
        images=args.images,
        indices=args.indices,
        score_thr=args.score_thr,
        device=args.device,
    )
    print(*(f'-> {path}' for path in paths), sep='\n')


if __name__ == '__main__':
    main()
