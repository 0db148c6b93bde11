"""The distiller of a run, for hooks."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.run_model import unwrap
from mmkd_plugin.models.distillers import Distiller


def run_distiller(runner: Runner, hook: Hook) -> Distiller:
    """Return the run's distiller, out of its DDP wrapper.

    Raises:
        ConfigError: If the run trains another model.
    """
    model = unwrap(runner.model)
    if not isinstance(model, Distiller):
        raise ConfigError(
            'custom_hooks',
            f'{type(hook).__name__} needs mmkd_plugin.Distiller as model',
            'Remove the hook.',
            found=type(model).__name__,
        )
    return model
