"""Let the scripts of other projects resume."""

from contextlib import ExitStack

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed
from mmkd_plugin.registry import HOOKS


@HOOKS.register_module()
class AllowRunnerCheckpoints(Hook):
    """Allow a run to load checkpoints that MMEngine's Runner wrote.

    The scripts of this repository need no such hook. It is for scripts such as MMDetection's
    ``tools/train.py``: with torch 2.6 or newer and MMEngine 0.10.7 they fail to resume. The types
    that a checkpoint may then contain are those of
    :func:`~mmkd_plugin.loading.safe_load.runner_checkpoints_allowed`, from the beginning of the run
    to its end.

    Example:
        >>> custom_hooks = [dict(type='mmkd_plugin.AllowRunnerCheckpoints')]
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._allowed = ExitStack()

    def before_run(self, runner: Runner) -> None:
        self._allowed.close()  # of a run that ended with an error
        self._allowed.enter_context(runner_checkpoints_allowed())

    def after_run(self, runner: Runner) -> None:
        self._allowed.close()
