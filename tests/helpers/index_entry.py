"""What model-index.yml says of a config, and what must hold of every entry."""

from functools import cache
from pathlib import Path
from typing import Any

import modelindex
from mmengine.config import Config

ROOT = Path(__file__).parents[2]


@cache
def _index() -> Any:
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    return index


def index_entry(path: Path, cfg: Config) -> Any:
    """The entry of the config at ``path``: of its name, in a collection that exists, with its epochs, and without a claim."""
    entry = {ROOT / model.config: model for model in _index().models}[path]
    assert entry.name == path.stem
    assert entry.in_collection in {collection.name for collection in _index().collections}
    assert entry.metadata.data['Epochs'] == cfg.train_cfg.max_epochs
    assert not entry.results, 'a result stands in the index only when it was measured'
    return entry
