"""Test a checkpoint: the student of a distillation config, all peers, or any other network."""

from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.model import BaseTTAModel
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkd_plugin.engine.launch import join_process_group
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.export import load_student
from mmkd_plugin.loading.run_model import kind_of, unwrap, with_type_names
from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed
from mmkd_plugin.loading.student import as_student


def evaluate_checkpoint(
    cfg: Config,
    checkpoint: str,
    network: str | None = None,
    *,
    tta: bool = False,
    launcher: str = 'none',
    out: str | None = None,
) -> dict[str, float]:
    """Test a checkpoint on the test data of its config, and return the metrics.

    A distillation config tests its student, without any teacher or its file. Mutual learning tests
    all peers and their ensemble, or one peer. Any other config is tested as its own project does.

    Args:
        cfg: The config, with its ``work_dir``; changed in place.
        checkpoint: Path of the checkpoint of a run, or of a network alone.
        network: Name of the peer to test alone.
        tta: Merge the predictions for several views of each image.
        launcher: As in OpenMMLab's tools.
        out: A ``.pkl`` file for the predictions.

    Raises:
        ConfigError: If the file does not restore the student, if no peer has this name, or if the
            config states no views for ``tta``.
    """
    distilled = as_student(cfg, network)
    cfg.load_from, cfg.resume = (None, False) if distilled else (checkpoint, False)
    if tta:
        merge_views(cfg)
    join_process_group(cfg, launcher)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if distilled:
        model = unwrap(runner.model)
        load_student(
            model.module if isinstance(model, BaseTTAModel) else runner.model, checkpoint, network
        )
    if out:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=out))
    with runner_checkpoints_allowed():
        return dict(runner.test())


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
