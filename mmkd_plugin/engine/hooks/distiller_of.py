"""The distiller inside a run."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmkd_plugin.models.distillers import Distiller


def distiller_of(runner: Runner, hook: Hook) -> Distiller:
    """The run's distiller, out of its DDP wrapper.

    Raises:
        ValueError: If the run trains something else.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not isinstance(model, Distiller):
        raise ValueError(
            f'custom_hooks: expected {type(hook).__name__} in a run of mmkd_plugin.Distiller, got {type(model).__name__}'
        )
    return model
