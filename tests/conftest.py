"""Every test starts alike: one thread, the same seeds, its own work folder, no earlier Runner."""

import os

os.environ['OMP_NUM_THREADS'] = '1'  # before torch; handed on to the processes that a test starts

import random
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import utils as config_utils
from mmengine.logging import MMLogger
from mmengine.utils import ManagerMixin

torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Look for examples in docstrings of the package, not of the tests."""
    collectors = yield
    return [one for one in collectors if type(one).__name__ != 'DoctestModule']


@pytest.fixture(autouse=True, scope='session')
def _metafiles_are_parsed_once() -> Iterator[None]:
    """Parse each metafile once: for every ``pkg::path`` MMEngine parses all of a package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_utils, 'load', cache(config_utils.load))
        yield


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the work folder inside the test's own: nothing is written into the repository."""
    monkeypatch.setenv('MMKD_WORK_DIR', str(tmp_path / 'work_dirs'))


@pytest.fixture(autouse=True)
def _no_trace_of_a_runner() -> Iterator[None]:
    """Forget the scope, logger, message hub and visualiser that MMEngine keeps of each Runner."""
    yield
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            handler.close()
    kinds = [ManagerMixin]
    for kind in kinds:
        kind._instance_dict.clear()
        kinds += kind.__subclasses__()
