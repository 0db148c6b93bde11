from pathlib import Path

import pytest
from helpers import classification as tiny
from helpers.analysis import checkpoint_of, config_of, network_of
from mmengine.config import Config

from mmkd_plugin.analysis.images import Images, sample_images
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.analysis.parts import DistilledNetworks, load_distilled


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return config_of(tmp_path)


@pytest.fixture
def checkpoint(cfg: Config, tmp_path: Path) -> str:
    return checkpoint_of(cfg, tmp_path)


@pytest.fixture
def networks(cfg: Config, checkpoint: str) -> DistilledNetworks:
    return load_distilled(cfg, checkpoint)


@pytest.fixture
def images(cfg: Config) -> Images:
    return sample_images(cfg, 'val', 24)


@pytest.fixture
def plain() -> LoadedNetwork:
    """The network of a stock config, not distilled."""
    return network_of(tiny.network(tiny.classifier(), seed=7))
