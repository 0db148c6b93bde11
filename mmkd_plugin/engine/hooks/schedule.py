"""Whether a run counts epochs or iterations, for hooks with an interval."""

from mmengine.runner import EpochBasedTrainLoop, Runner

from mmkd_plugin.errors import ConfigError


def counts_epochs(runner: Runner) -> bool:
    """Return whether the training loop has epochs.

    For MMEngine's ``IterBasedTrainLoop`` the whole training is one epoch.
    """
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def require_reached(key: str, value: int, runner: Runner, by_epoch: bool) -> None:
    """Refuse a moment that the run never reaches.

    Args:
        key: The key of the config.
        value: After so many epochs or iterations.
        runner: The runner.
        by_epoch: Whether ``value`` counts epochs.

    Raises:
        ConfigError: If the run is too short, or has no epochs.
    """
    if by_epoch and not counts_epochs(runner):
        raise ConfigError(
            key,
            'needs a run of epochs, and this one counts iterations',
            f'Use {key.replace("epoch", "iter")}.',
            found=value,
        )
    end, unit = (runner.max_epochs, 'epochs') if by_epoch else (runner.max_iters, 'iterations')
    if value >= end:
        raise ConfigError(
            key,
            f'must be below {end}, the number of {unit} of the run',
            'Lower it, or remove the hook.',
            found=value,
        )
