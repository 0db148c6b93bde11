"""Checkpoints that a Runner wrote, read in a test."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed


def content_of(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content; the Runner writes types that torch refuses by default."""
    with runner_checkpoints_allowed():
        return torch.load(path, weights_only=True)


def state_of(path: Path) -> dict[str, Tensor]:
    """Return a checkpoint's state dict."""
    return content_of(path)['state_dict']
