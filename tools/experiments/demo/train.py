"""One training of a demo: to its end, then one test; how far it is, from its log."""

import copy
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmkd_plugin.engine.launch import own_state
from mmkd_plugin.engine.stages import Stage, train_stages


def train(stage: Stage) -> None:
    """Train what is not trained yet."""
    train_stages([stage])


def train_and_test(stage: Stage, key: str) -> float:
    """Do what is not done yet; give the metric ``key`` on the test images at the last step.

    Raises:
        KeyError: If the evaluator gives other metrics.
    """
    train_stages([stage])
    finished, tested = stage.note('finished.json'), stage.note('tested.json')
    assert finished is not None
    if (
        tested is None
        or tested['finished'] != finished['finished']
        or key not in tested.get('metrics', {})
    ):
        cfg = copy.deepcopy(stage.cfg)
        cfg.resume, cfg.load_from = False, str(stage.folder / finished['last_checkpoint'])
        with own_state():
            found = Runner.from_cfg(cfg).test()
        # CocoMetric gives none at all where nothing was detected: that is 0.
        metrics = {name: float(value) for name, value in found.items()} or {key: 0.0}
        stage.write_note('tested.json', finished=finished['finished'], metrics=metrics)
        return metrics[key]
    return float(tested['metrics'][key])


def steps_of(cfg: Config) -> tuple[int, str]:
    """How many steps a training has in its log, and of what: epochs, or iterations where these are counted."""
    if 'max_epochs' in cfg.train_cfg:
        return cfg.train_cfg.max_epochs, 'epochs'
    return cfg.train_cfg.max_iters, 'iterations'


def last_step(log: Path) -> int:
    """The last epoch that a training has begun, or the last iteration that it has told of, from its log; 0 before the first."""
    steps = re.findall(r'(?:Epoch|Iter)\(train\)\s+\[\s*(\d+)[]/]', log.read_text(errors='replace'))
    return int(steps[-1]) if steps else 0
