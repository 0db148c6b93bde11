"""Store the outputs of the teachers of a config, before it is trained.

    python tools/cache_teachers.py STUDENT.py
    torchrun --nproc_per_node=4 tools/cache_teachers.py STUDENT.py --launcher pytorch

Only rows that are missing are computed. The same config then trains without its teachers:
docs/replay.md.
"""

import argparse
import os

from mmengine.config import Config, DictAction

from mmkd_plugin.engine.fill_stores import fill_stores
from mmkd_plugin.engine.launch import join_process_group
from mmkd_plugin.engine.stages import work_root


def main() -> None:
    """Fill the stores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('--views', type=int, help='fill so many views; all by default')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    root = work_root()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = str(root / 'cache_teachers')
    join_process_group(cfg, args.launcher)
    fill_stores(cfg, args.views)


if __name__ == '__main__':
    main()
