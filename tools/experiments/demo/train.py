"""One training of a demo, and its test."""

import copy

from mmengine.runner import Runner

from mmkd_plugin.engine.launch import isolated_runner_state
from mmkd_plugin.engine.stages import Stage, train_stages
from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed


def train(stage: Stage) -> None:
    """Train what is not trained yet."""
    train_stages([stage])


def train_and_test(stage: Stage, key: str) -> float:
    """Do what is not done yet, and return the metric ``key`` on the test images at the last step.

    Raises:
        KeyError: If the evaluator returns other metrics.
    """
    train_stages([stage])
    finished, tested = stage.read_status('finished.json'), stage.read_status('tested.json')
    assert finished is not None
    if (
        tested is None
        or tested['finished'] != finished['finished']
        or key not in tested.get('metrics', {})
    ):
        cfg = copy.deepcopy(stage.cfg)
        cfg.resume, cfg.load_from = False, str(stage.folder / finished['last_checkpoint'])
        with isolated_runner_state(), runner_checkpoints_allowed():
            found = Runner.from_cfg(cfg).test()
        # CocoMetric returns no metric if nothing was detected: that is 0.
        metrics = {name: float(value) for name, value in found.items()} or {key: 0.0}
        stage.write_status('tested.json', finished=finished['finished'], metrics=metrics)
        return metrics[key]
    return float(tested['metrics'][key])
