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
from mmengine.evaluator import DumpResults
from mmengine.model import BaseTTAModel
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkd_plugin.engine.launch import join_process_group
from mmkd_plugin.engine.stages import work_root
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.export import load_student
from mmkd_plugin.loading.run_model import kind_of, unwrap, with_type_names
from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed
from mmkd_plugin.loading.student import as_student


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


def merge_views(cfg: Config) -> None:
    """Change a config so that the test merges the predictions for several views of an image.

    Raises:
        ConfigError: If the config states no views, or tests several networks.
    """
    for key in ('tta_model', 'tta_pipeline'):
        if not cfg.get(key):
            raise ConfigError(key, 'is missing', 'The flag --tta needs it.')
    if kind_of(cfg.model) == 'mutual':
        raise ConfigError('--tta', 'tests one network', 'Add --network NAME.')
    # The network has its preprocessor, which that of the run would replace.
    cfg.model = {
        **with_type_names(cfg.tta_model),
        'module': cfg.model,
        'data_preprocessor': None,
    }
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


def main() -> None:
    """Test the checkpoint."""
    args = parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    root = work_root()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(root / Path(args.config).stem)
    distilled = as_student(cfg, args.network)
    cfg.load_from, cfg.resume = (None, False) if distilled else (args.checkpoint, False)
    if args.tta:
        merge_views(cfg)
    join_process_group(cfg, args.launcher)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if distilled:
        model = unwrap(runner.model)
        network = model.module if isinstance(model, BaseTTAModel) else runner.model
        load_student(network, args.checkpoint, args.network)
    if args.out:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    with runner_checkpoints_allowed():
        runner.test()


if __name__ == '__main__':
    main()
