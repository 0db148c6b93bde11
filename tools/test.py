"""Test a checkpoint. A distillation config tests its student, without any teacher or its file.

    python tools/test.py configs/demo/amtml_label.py work_dirs/amtml_label/epoch_30.pth

The checkpoint may be that of a distillation run or an exported student. Mutual learning tests all
peers and their ensemble, or one peer with --network NAME. Any other config is tested as its own
project does.
"""

import argparse
import os
from pathlib import Path

from mmengine.config import Config, DictAction

from mmkd_plugin.engine.evaluate import evaluate_checkpoint
from mmkd_plugin.engine.stages import work_root


def parse_args() -> argparse.Namespace:
    """Return OpenMMLab's usual flags, and --network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--network', metavar='NAME', help='one peer alone, after mutual learning')
    parser.add_argument(
        '--work-dir', help='where the metrics are written; default: <root>/<config name>'
    )
    parser.add_argument(
        '--tta', action='store_true', help='merge views by tta_model and tta_pipeline of the config'
    )
    parser.add_argument('--out', help='write the predictions to this .pkl file')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by launchers'
    )
    return parser.parse_args()


def main() -> None:
    """Test the checkpoint."""
    args = parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    root = work_root()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(root / Path(args.config).stem)
    evaluate_checkpoint(
        cfg, args.checkpoint, args.network, tta=args.tta, launcher=args.launcher, out=args.out
    )


if __name__ == '__main__':
    main()
