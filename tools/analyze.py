"""Analyse what a student has inherited and explored: pictures, with their numbers as JSON.

    python tools/analyze.py cka configs/demo/ie_kd.py work_dirs/ie_kd/epoch_30.pth
    python tools/analyze.py all CONFIG CHECKPOINT --against kd.py kd.pth 'KD student' --split test

cka: linear CKA between all layers. active: active neurons. relevance: the share of each pixel in
the class score. noise: loss and accuracy with noise on all weights. docs/analyze.md explains how to
read the pictures.
"""

import argparse
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.hub import get_config

from mmkd_plugin.analysis.images import SPLITS, sample_images
from mmkd_plugin.analysis.noise import LEVELS
from mmkd_plugin.analysis.parts import load_distilled
from mmkd_plugin.analysis.relevance import RULES
from mmkd_plugin.analysis.report import SUBJECTS
from mmkd_plugin.engine.stages import work_root


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('subject', choices=['all', *SUBJECTS])
    parser.add_argument('config', help="a distillation config: a path, or 'pkg::path'")
    parser.add_argument('checkpoint', help='of its run; not the exported student')
    parser.add_argument(
        '--against',
        nargs='+',
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT [NAME]'),
        help='another network to compare with; may be repeated',
    )
    parser.add_argument(
        '--images', type=int, default=512, help='drawn from the split (default: %(default)s)'
    )
    parser.add_argument('--split', choices=SPLITS, default='val', help='default: %(default)s')
    parser.add_argument('--out', type=Path, help="folder; default: analyze, in the checkpoint's")
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value')
    parser.add_argument(
        '--depth',
        type=int,
        default=2,
        help='cka: largest number of parts of a layer path (default: %(default)s)',
    )
    parser.add_argument(
        '--rule', choices=RULES, default='lrp', help='relevance (default: %(default)s)'
    )
    parser.add_argument(
        '--levels',
        type=float,
        nargs='+',
        default=LEVELS,
        help='noise: levels, relative to the weights',
    )
    parser.add_argument(
        '--seeds', type=int, default=5, help='noise: draws a level (default: %(default)s)'
    )
    return parser.parse_args()


def main() -> None:
    """Load the networks, measure, draw, and print the main numbers."""
    args = parse_args()
    work_root()
    cfg = get_config(args.config) if '::' in args.config else Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    networks = load_distilled(cfg, args.checkpoint, args.against, args.device)
    images = sample_images(cfg, args.split, args.images)
    out = args.out or Path(args.checkpoint).parent / 'analyze'
    out.mkdir(parents=True, exist_ok=True)
    options = dict(
        cka=dict(depth=args.depth),
        relevance=dict(rule=args.rule),
        noise=dict(levels=args.levels, seeds=args.seeds),
    )
    for subject in SUBJECTS if args.subject == 'all' else [args.subject]:
        report = SUBJECTS[subject](networks, images, out, **options.get(subject, {}))
        print(f'\n{subject}: {images.count} images')
        print(*(f'  {line}' for line in report.lines), sep='\n')
        print(*(f'-> {path}' for path in report.files), sep='\n')


if __name__ == '__main__':
    main()
