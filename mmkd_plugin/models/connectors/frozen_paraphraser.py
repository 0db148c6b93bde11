"""The trained encoder of a paraphraser, as the methods of stage 2 use it."""

import json
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.checkpoint import load_file
from mmkd_plugin.loading.keys import state_of
from mmkd_plugin.loading.run_record import read_record
from mmkd_plugin.models.connectors.factor_encoder import FactorEncoder
from mmkd_plugin.models.connectors.paraphraser import Paraphraser

_PREFIX = 'paraphraser.'
_TRAIN = 'Train one with mmkd_plugin.ParaphraserTrainer and name its checkpoint.'


class FrozenParaphraser(nn.Module):
    """Compute the factor of a teacher's map with a trained encoder that no longer changes.

    No gradient flows, the encoder stays in eval mode even after ``train()``, and the decoder is
    left out. Its weights are part of the state dict of the module that holds it.

    Args:
        encoder: The trained encoder.
        tap: The tap of the teacher's map that it was trained on.
        teacher_sha256: The SHA-256 of that teacher's checkpoint file, in hexadecimal.

    Shape:
        (N, m, H, W) to (N, c, H, W).

    Raises:
        ConfigError: If a map has other channels.

    Example:
        >>> frozen = FrozenParaphraser(Paraphraser(16).encoder, 'backbone.layer3', 'e3b0c442')
        >>> frozen.train().training
        False
        >>> frozen(torch.rand(2, 16, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, encoder: FactorEncoder, tap: str, teacher_sha256: str) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.tap = tap
        self.teacher_sha256 = teacher_sha256
        self.eval()

    @classmethod
    def load(
        cls, path: str, key: str, tap: str | None = None, in_channels: int | None = None
    ) -> Self:
        """Read the checkpoint of a run of ``ParaphraserTrainer``.

        Its record determines the encoder. Loading draws no number from the run's generators.

        Args:
            path: Path or URL.
            key: The config key that names it, for errors.
            tap: The tap of the teacher's map that it must have been trained on; None for any.
            in_channels: The channels of that map; None for any.

        Raises:
            ConfigError: If the file is another model's checkpoint or incomplete, or holds a
                paraphraser of another map or for other channels.
        """
        state, settings = _read(path, key)
        trained_tap, arguments = settings['tap'], settings['paraphraser']
        if tap is not None and tap != trained_tap:
            raise ConfigError(
                key,
                f'must be the checkpoint of a paraphraser of {tap!r}',
                f'{path} was trained on another tap. Train one on {tap!r}.',
                found=trained_tap,
            )
        try:
            with torch.random.fork_rng(devices=[]):
                paraphraser = Paraphraser(**arguments)
            paraphraser.load_state_dict(state)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = ' '.join(str(error).split())
            raise ConfigError(
                key,
                'must hold the weights that its record describes',
                f'{reason}. Train the paraphraser again.',
                found=path,
            ) from error
        if in_channels is not None and in_channels != paraphraser.in_channels:
            raise ConfigError(
                key,
                f'must be the checkpoint of a paraphraser for {in_channels} channels',
                f'{path} was trained on another map. Train one on this teacher.',
                found=paraphraser.in_channels,
            )
        return cls(paraphraser.encoder, trained_tap, settings['teacher']['sha256'])

    @property
    def in_channels(self) -> int:
        """The channels of the teacher's map."""
        return self.encoder.in_channels

    @property
    def factor_channels(self) -> int:
        """The channels of the factor."""
        return self.encoder.factor_channels

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever ``mode`` is."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the factor (N, c, H, W) of a teacher's map (N, m, H, W), without gradient."""
        factor: Tensor = self.encoder(x)
        return factor

    forward = encode


def _read(path: Any, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of the paraphraser in a checkpoint, and what the run recorded about it."""
    if not isinstance(path, str) or not path:
        raise ConfigError(
            key, "must be the path or URL of a paraphraser's checkpoint", _TRAIN, found=path
        )
    state = state_of(load_file(path, key).content)
    names = [str(name) for name in state] if isinstance(state, Mapping) else []
    weights = {
        name.removeprefix(_PREFIX): state[name] for name in names if name.startswith(_PREFIX)
    }
    try:
        settings = _recorded(state) if weights else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            key,
            'must have a readable record of the paraphraser',
            f'Reading it failed with {error!r}. Train the paraphraser again.',
            found=path,
        ) from error
    if settings is None:
        held = ', '.join(map(repr, names[:3])) or 'nothing'
        raise ConfigError(
            key,
            'must be the checkpoint of a run of mmkd_plugin.ParaphraserTrainer',
            f'The file holds {held}. {_TRAIN}',
            found=path,
        )
    return weights, settings


def _recorded(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the tap, the arguments and the teacher's hash; None without a record."""
    settings = read_record(state, 'record')
    if settings is None and {'record', 'teacher_sha256'} <= state.keys():  # written by version 0.1
        first = json.loads(bytes(state['record'].tolist()))
        sha256 = bytes(state['teacher_sha256'].flatten().tolist()).hex()
        settings = dict(
            tap=first['tap'], paraphraser=first['arguments'], teacher=dict(sha256=sha256)
        )
    if settings is None:
        return None
    return dict(
        tap=str(settings['tap']),
        paraphraser=dict(settings['paraphraser']),
        teacher=dict(sha256=str(settings['teacher']['sha256'])),
    )
