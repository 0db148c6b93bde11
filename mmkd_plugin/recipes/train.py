"""The command that trains stages: ``tools/train.py`` and ``mmkd train``."""

import argparse
import os

from mmengine.config import Config

from mmkd_plugin.adapters.dry_run import first_line
from mmkd_plugin.engine.stages import load_stages, train_stages
from mmkd_plugin.errors import ConfigError, one_line
from mmkd_plugin.loading.run_model import type_name
from mmkd_plugin.recipes.settings import Settings

DESCRIPTION = 'Train one config, or several in a row as the stages of one job.'


def parse_args(description: str) -> argparse.Namespace:
    """Return OpenMMLab's usual flags, and --restart."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'configs', nargs='+', metavar='CONFIG', help='config files, in the order of training'
    )
    parser.add_argument(
        '--work-dir', help='of one config, its folder; of several, the root of <root>/<config name>'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from the last checkpoint even if the config has changed, or (one config) '
        'from this checkpoint',
    )
    parser.add_argument(
        '--restart', action='store_true', help='train again what is finished or was interrupted'
    )
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument('--no-validate', action='store_true', help='no validation while training')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Settings,
        default={},
        help='key=value, for every config',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by launchers'
    )
    return parser.parse_args()


def edit(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the command line to a config.

    Raises:
        ConfigError: If the config cannot do what a flag asks for.
    """
    if args.amp:
        kind = type_name(cfg.optim_wrapper.get('type', 'OptimWrapper'))
        if kind.rpartition('.')[2] not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise ConfigError('optim_wrapper.type', "must be 'OptimWrapper' with --amp", found=kind)
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ConfigError(
                'auto_scale_lr.base_batch_size', 'is missing', 'The flag --auto-scale-lr needs it.'
            )
        cfg.auto_scale_lr.enable = True
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    try:
        cfg.merge_from_dict(args.cfg_options)
    except TypeError as error:  # a stage without validation has None there, for one
        raise ConfigError(
            '--cfg-options',
            f'cannot be merged into {cfg.filename}: {first_line(error)}',
            'They are for all configs of the command: change the config that needs them.',
            found=args.cfg_options,
        ) from error


def main(description: str = DESCRIPTION) -> None:
    """Train the stages.

    Args:
        description: Text above the flags in the help.
    """
    args = parse_args(description)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with one_line():
        stages = load_stages(args.configs, args.work_dir, lambda cfg: edit(cfg, args))
        train_stages(stages, args.launcher, args.resume, args.restart)
